"""From files to batches: sources, decoding, normalising, and the loader."""

from dali_mix.fn import Augmentation as Augmentation
from dali_mix.fn import augment as augment
from dali_mix.fn import draw_hflip as draw_hflip
from dali_mix.fn.image.decode import decode_images as decode_images
from dali_mix.fn.image.decode import random_resized_crop as random_resized_crop
from dali_mix.fn.image.decode import resize_center_crop as resize_center_crop
from dali_mix.fn.image.decoder_settings import DecoderSettings as DecoderSettings
from dali_mix.fn.outputs import batch_outputs as batch_outputs
from dali_mix.fn.outputs import normalization as normalization
from dali_mix.fn.outputs import normalize as normalize
from dali_mix.fn.outputs import normalized_outputs as normalized_outputs
from dali_mix.loading.device import select_backend as select_backend
from dali_mix.loading.loader import Batch as Batch
from dali_mix.loading.loader import MixLoader as MixLoader
from dali_mix.loading.recovery import LEFT_OUT as LEFT_OUT
from dali_mix.loading.recovery import BadImage as BadImage
from dali_mix.loading.recovery import TolerantLoader as TolerantLoader
from dali_mix.sources.folder import ImageFolder as ImageFolder
from dali_mix.sources.folder import find_split as find_split
from dali_mix.sources.folder import scan_image_folder as scan_image_folder
from dali_mix.sources.reading import feed_images as feed_images
from dali_mix.sources.reading import read_images as read_images
from dali_mix.sources.reading import scheduled_size as scheduled_size
