"""Which files of a folder are images, told by their names."""

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""The extensions of ``torchvision.datasets.ImageFolder``, which takes seconds to import."""
