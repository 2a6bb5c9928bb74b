"""From files to batches: sources, decoding, normalising, and the loader."""

from dali_mix.data.decode import decode_images as decode_images
from dali_mix.data.decode import random_resized_crop as random_resized_crop
from dali_mix.data.decode import resize_center_crop as resize_center_crop
from dali_mix.data.decoder_settings import DecoderSettings as DecoderSettings
from dali_mix.data.device import select_backend as select_backend
from dali_mix.data.folder import ImageFolder as ImageFolder
from dali_mix.data.folder import find_split as find_split
from dali_mix.data.folder import scan_image_folder as scan_image_folder
from dali_mix.data.loader import Batch as Batch
from dali_mix.data.loader import MixLoader as MixLoader
from dali_mix.data.normalize import batch_outputs as batch_outputs
from dali_mix.data.normalize import normalization as normalization
from dali_mix.data.normalize import normalize as normalize
from dali_mix.data.normalize import normalized_outputs as normalized_outputs
from dali_mix.data.source import feed_images as feed_images
from dali_mix.data.source import read_images as read_images
from dali_mix.data.source import scheduled_size as scheduled_size
from dali_mix.data.tolerant import LEFT_OUT as LEFT_OUT
from dali_mix.data.tolerant import BadImage as BadImage
from dali_mix.data.tolerant import TolerantLoader as TolerantLoader
from dali_mix.fn import Augmentation as Augmentation
from dali_mix.fn import augment as augment
from dali_mix.fn import draw_hflip as draw_hflip
