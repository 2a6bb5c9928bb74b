"""What counts as an image: larger ones are bad, before memory is taken for them."""

MAX_IMAGE_PIXELS = 178_956_970
"""Images with more pixels count as bad: PIL's limit against decompression bombs, 0.5 GB as RGB."""

MAX_FILE_BYTES = 1 << 30
"""Larger files count as bad; an image of ``MAX_IMAGE_PIXELS`` with 16 bits a channel still fits."""
