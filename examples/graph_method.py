"""A mixing method of one's own, beside CutMix; ``python examples/graph_method.py`` prints the weights of labels."""

from dataclasses import dataclass

from nvidia.dali import fn, pipeline_def, types

from dali_mix import fn as mix
from dali_mix.options import probability


@mix.register
@dataclass(frozen=True)
class HalfMix(mix.GraphMethod):
    """Half of the partner, left or right, replaces that half of the image."""

    name = "halfmix"
    left: float = mix.option(0.5, probability, "How often it is the left half.")

    def draw(self, batch: mix.Drawing) -> mix.Draw:
        """See GraphMethod."""
        right = fn.cast(batch.uniform("side", [1]) >= self.left, dtype=types.INT32)
        height, half = batch.size[0:1], batch.size[1:2] // 2
        box = fn.cat(height * 0, right * half, height, (right + 1) * half)
        return mix.Draw(box, batch.own_share(box))


@pipeline_def(batch_size=8, num_threads=2, device_id=None, seed=1)
def mixed():
    """Random images, mixed by CutMix or HalfMix."""
    images = fn.random.uniform(range=[0.0, 255.0], shape=[32, 32, 3])
    labels = fn.batch_permutation()
    return tuple(mix.random_mix(images, labels, num_classes=8, choices={mix.CutMix(): 0.5, HalfMix(left=0.2): 0.5}))


if __name__ == "__main__":
    pipeline = mixed()
    for _ in range(4):
        *_, targets, _, branch = (output.as_array() for output in pipeline.run())
        print("halfmix" if branch[0] == HalfMix.code else "cutmix", targets.max(1))
