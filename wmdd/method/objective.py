"""The loss of recovery: one value for each class and term, of the views of one step.

The terms of a class c are, in this order:

- feature: distance of the features of the views to the class's atoms (`losses.feature_loss`), or to a sample of the
  class's real features (`transport.Transport`);
- batch_norm: distance of the views' moments to the real ones, summed over layers (`losses.batch_norm_loss`); with
  `bn_global_share` these are a mean of the class's and of the teacher's running ones (Shao et al., 2024, EDC);
- cross_entropy: of the views with class c (`losses.cross_entropy_loss`);
- the priors whose weight is not 0, which see the views alone.

The loss is their sum with the weights of `term_weights`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from wmdd.config.recovery import RecoverConfig
from wmdd.data.views import Views, apply_views, view_matrices
from wmdd.method.artifacts import Barycenter, ClassStatistics
from wmdd.method.batch_norm_term import BatchNormTerm
from wmdd.method.draws import mix
from wmdd.method.losses import cross_entropy_loss, feature_loss, l2_loss, total_variation_loss
from wmdd.method.tiles import enlargement, split
from wmdd.method.transport import Transport
from wmdd.models.probes import Probe
from wmdd.runtime import Runtime

# The option with the weight of each prior, and its loss: (classes * ipc, 3, h, w) views and ipc to (classes,).
PRIORS = {"total_variation": ("tv_weight", total_variation_loss), "l2": ("l2_weight", l2_loss)}


def term_weights(section: RecoverConfig) -> dict[str, float]:
    """Return the weights of the terms by name, in the order of the terms; priors of weight 0 are left out."""
    weights = {"feature": section.feature_weight, "batch_norm": section.bn_weight, "cross_entropy": section.ce_weight}
    priors = {name: getattr(section, option) for name, (option, _) in PRIORS.items()}
    return weights | {name: weight for name, weight in priors.items() if weight}


class Objective:
    """The loss terms of several classes as a function of their images and views.

    Args:
        statistics, barycenters: of each class, in the order of the images.
        probe: of the teacher's network, on the runtime's device.
        size: height and width of the images, px.
    """

    def __init__(
        self,
        section: RecoverConfig,
        statistics: Sequence[ClassStatistics],
        barycenters: Sequence[Barycenter],
        probe: Probe,
        size: int,
        runtime: Runtime,
    ) -> None:
        device = runtime.device
        self.section, self.probe, self.runtime = section, probe, runtime
        weights = term_weights(section)
        self.term_weights = torch.tensor(list(weights.values()), device=device)
        self.enlargement = enlargement(size, section.tiles).to(device)
        self.priors = [loss for name, (_, loss) in PRIORS.items() if name in weights]
        self.relative = section.bn_weight_scale == "relative"
        self.support = torch.stack([barycenter.support for barycenter in barycenters]).to(device)
        self.mass = torch.stack([barycenter.mass for barycenter in barycenters]).to(device)
        self.class_ids = torch.tensor([item.class_id for item in statistics], device=device)
        self.means, self.vars = self._targets(statistics, size)
        self.transport: Transport | None = None
        if section.feature_loss == "transport":
            self.transport = Transport(statistics, self.mass, section.transport_sample, runtime)
        self.bn_mass = self.mass
        if section.bn_target == "global":
            # One distribution, to be matched by all the images of the tensor batch together (SRe2L).
            self.bn_mass = (self.mass / len(barycenters)).view(1, -1)
        if section.bn_weight > 0:
            probe.normalize_by(self._normalize)

    def __call__(
        self,
        images: Tensor,
        box: Tensor,
        flip: Tensor,
        roll: Tensor,
        sample: Tensor | None = None,
        partner: Tensor | None = None,
        mix_box: Tensor | None = None,
    ) -> Tensor:
        """Return the terms (classes, terms) of (classes * ipc, 3, h, w) images under one view of each class.

        If the images hold tiles, the terms are of all tiles, enlarged; ipc below is their number in a class.

        Args:
            box, flip, roll, sample, partner, mix_box: what `method.draws` has of one step.
        """
        classes, ipc = self.mass.shape
        size = (images.shape[-2], images.shape[-1])
        rows, columns = view_matrices(Views(box, flip, roll), size, size[0])
        if self.section.tiles > 1:
            images = split(images, self.section.tiles)
            rows, columns = rows @ self.enlargement, columns @ self.enlargement
        views = apply_views(images.unflatten(0, (classes, ipc)), rows, columns)
        if partner is not None and mix_box is not None:
            views = mix(views, partner, mix_box)
        self.layer_losses: list[Tensor] = []
        with self.runtime.autocast():
            logits, features, _ = self.probe.run(self.runtime.images(views.flatten(0, 1)))
        features = features.float().unflatten(0, (classes, ipc))
        feature = self._feature_loss(features, sample)
        batch_norm = sum(self.layer_losses, torch.zeros_like(feature))
        self.layer_losses = []  # they hold the step's graph, and are no results of compiled code
        terms = [feature, batch_norm, cross_entropy_loss(logits, self.class_ids, ipc)]
        return torch.stack(terms + [prior(views.flatten(0, 1), ipc) for prior in self.priors], dim=1)

    def _feature_loss(self, features: Tensor, sample: Tensor | None) -> Tensor:
        """Return the feature term (classes,) of (classes, ipc, d) features."""
        kind = self.section.feature_loss
        if kind != "transport":
            return feature_loss(features, self.support, self.mass, kind)
        if self.transport is None or sample is None:
            raise ValueError("transport needs a sample of each class's features")
        return self.transport(features, sample)

    def _targets(self, statistics: Sequence[ClassStatistics], size: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return the means and variances to match, of each layer (classes, channels) float32; (1, channels) of all."""
        device, share = self.runtime.device, self.section.bn_global_share
        if self.section.bn_target == "global":
            running = self._running(size)
            return [mean.float()[None] for mean, _ in running], [var.float()[None] for _, var in running]
        of_layers = list(zip(*(item.moments for item in statistics), strict=True))
        means = [torch.stack([moments.mean for moments in layer]).float().to(device) for layer in of_layers]
        variances = [torch.stack([moments.var for moments in layer]).float().to(device) for layer in of_layers]
        if not share:
            return means, variances
        running = self._running(size)
        mixed = [torch.lerp(own, mean.float(), share) for own, (mean, _) in zip(means, running, strict=True)]
        return mixed, [torch.lerp(own, var.float(), share) for own, (_, var) in zip(variances, running, strict=True)]

    def _running(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Return the teacher's running mean and variance of each layer."""
        with self.runtime.autocast():
            blank = torch.zeros(2, 3, size, size, device=self.runtime.device)
            return self.probe.running_moments(self.runtime.images(blank))

    def _normalize(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return the output of the next batch-norm layer, and record the loss of its inputs."""
        layer = len(self.layer_losses)
        targets = self.means[layer], self.vars[layer], self.bn_mass
        output, loss = BatchNormTerm.apply(inputs, *targets, self.relative, scale, shift)
        self.layer_losses.append(loss * self.section.first_bn_multiplier if layer == 0 else loss)
        return cast(Tensor, output)
