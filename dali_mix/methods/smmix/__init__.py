"""SMMix (Chen et al., ICCV 2023): the attention of the ViT under training chooses what is mixed."""
