"""What happens to one image: augmentation, by timm's settings."""
