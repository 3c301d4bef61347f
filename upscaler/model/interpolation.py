"""Network interpolation: one network between two.

Wang et al., "ESRGAN", ECCVW 2018 (arXiv:1809.00219), section 3.4: theta = (1 - alpha) * theta_PSNR +
alpha * theta_GAN, tensor by tensor.
"""

from __future__ import annotations

from upscaler.errors import UserError
from upscaler.model.weights import Weights


def blend(psnr: Weights, gan: Weights, alpha: float) -> Weights:
    """Weights at ``alpha`` of the way from ``psnr`` (0) to ``gan`` (1), in fp32.

    Values of alpha outside 0..1 extrapolate. Both parents and alpha are recorded in the metadata.

    Raises:
        UserError: the two are not of one architecture with the same numbers.
    """
    if (psnr.architecture, psnr.settings) != (gan.architecture, gan.settings):
        different = [key for key in gan.settings if psnr.settings.get(key) != gan.settings[key]]
        reason = ", ".join(f"{key} {psnr.settings.get(key)} and {gan.settings[key]}" for key in different)
        raise UserError(
            "only two networks of one architecture can be blended; these are "
            f"{psnr.architecture} and {gan.architecture}" + (f" with {reason}" if reason else "")
        )
    tensors = {
        key: (1 - alpha) * psnr.tensors[key].float() + alpha * tensor.float() for key, tensor in gan.tensors.items()
    }
    parents = {"alpha": f"{alpha:g}", "parent_psnr": psnr.digest, "parent_gan": gan.digest}
    return Weights(gan.architecture, gan.settings, tensors, parents, digest=f"{psnr.digest}+{gan.digest}@{alpha:g}")
