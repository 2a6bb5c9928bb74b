"""Where images come from: folders, listed once and checked before anything is built."""
