"""A step method in one file: interpolation consistency (Verma 2019, arXiv 1903.03825), the model its own teacher.

``python train_imagenet.py --import examples/step_method.py --mix ict=0.5 cutmix=0.5 --data-dir imagenet``
"""

from dataclasses import dataclass

import torch.nn.functional as F

from dali_mix.methods import Row, StepMethod, register
from dali_mix.options import non_negative, option, positive


@dataclass(frozen=True)
class Options:  # --ict-alpha and --ict-weight
    alpha: float = option(1.0, positive, "Alpha of the Beta distribution of the mixing ratio.")
    weight: float = option(1.0, non_negative, "Weight of the consistency.")


@register
class InterpolationConsistency(StepMethod):
    name, parts, Options = "ict", ("classification", "interpolation"), Options

    def plan(self, size_px, rng):
        return float(rng.beta(self.options.alpha, self.options.alpha))

    def forward(self, batch, plan):
        # Not under no_grad, of which autocast would keep half-precision weights without gradient for the next call.
        expected = mixed(self.model(batch.images).detach().float().softmax(1), plan)
        logits = self.model(mixed(batch.images, plan)).float()
        own = F.cross_entropy(logits, mixed(batch.targets, plan))
        gap = F.mse_loss(logits.softmax(1), expected, reduction="sum") / len(logits)
        return {"loss": own + self.options.weight * gap, "output": logits, "classification": own, "interpolation": gap}

    def picture(self, batch, plan):
        return [Row("ICT: what the model saw", mixed(batch.images, plan), mixed(batch.targets, plan))]


def mixed(values, lam):
    return lam * values + (1 - lam) * values.flip(0)  # sample i with B-1-i
