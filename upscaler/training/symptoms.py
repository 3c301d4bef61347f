"""What can be wrong with a network's weights, gradients, losses and pictures: each fault is a function of a trace.

A function looks at a few readings, so that one odd batch raises nothing, and compares them with each other or with
the first ones of the stage. What the discriminator and the generator do to each other is in ``rivalry``.
"""

from __future__ import annotations

from itertools import pairwise
from statistics import median

from upscaler.training.readings import TERMS
from upscaler.training.traces import PATIENCE, PERSISTENT, WINDOW, Finding, Trace, short, words

GROWN = 10.0
"""Times the first root mean square of weights; healthy networks stay within twice of it."""

SMALL_WEIGHT = 0.2
"""Weights below this may grow by any factor: last layers are often begun near 0."""

LARGE_WEIGHT = {"": 0.35, "_first": 2.0, "_last": 2.0}
"""Root mean squares that no initialisation reaches: 0.02 to 0.15 is usual, 0.3 for a layer with few inputs. It
tells a learning rate that ruined the weights before there was a first reading to compare with."""

STEADY = 1.05
"""Growth from each reading to the next, for ``WINDOW`` readings, that doubles the weights."""

IDLE_RATE = 1e-3
"""Share of the early learning rate below which weights may well stand still."""

VANISHED = 1e-3
"""Share of a gradient, or of the ratio between first and last layer, that is left of the early one. In healthy runs
that ratio stays within a factor of 10, and the gradient within 100 as long as the loss is not small."""

SMALL_LOSS = {"discriminator": 0.01, "generator": 0.0}
"""A loss that may have no gradient: hinge's is 0 where the discriminator is right about everything."""

DOMINANT = 0.999
"""Share of one loss in the gradient of the pictures, for long. The recipes of ESRGAN and Real-ESRGAN begin
with 67 to 97 % for the feature loss, SRGAN's with 98 % for the adversarial one; behind a fresh spectral norm that
has 0.02 % for a few readings, and ESRGAN's pixel loss never has more than 0.05 %."""

TINT = 5.0
TINT_SPREAD = 3.0
"""Levels of 255 by which one channel is off, and by which channels differ; healthy runs stay within 3."""

DIVERGED = {False: 2.5, True: 4.0}
"""Times the best smoothed loss, without and with a discriminator. What a GAN costs, up to 4 dB of PSNR, is 2.5 times
the squared error."""

PSNR_DROP = {False: 1.5, True: 6.0}
"""dB below the best, without and with a discriminator. GANs cost 2 to 4."""

_NETWORKS = ("discriminator", "generator")
_LAYERS = {"": "", "_first": " of the first layer", "_last": " of the last layer"}
_COLOURS = ("colour/red", "colour/green", "colour/blue")


def broken_numbers(trace: Trace) -> Finding | None:
    """NaN or infinity anywhere; in gradients alone only twice in a row, as scaled fp16 skips such steps."""
    now, before = trace.broken[-1], trace.broken[-2] if len(trace.broken) > 1 else []
    told = [name for name in now if not name.startswith(("gradient/", "picture_gradient/")) or name in before]
    if not told:
        return None
    example = min(told, key=lambda name: not name.startswith("loss/"))
    count, of = len(now), len(now) + len(trace.recent[-1])
    return Finding(
        "nan",
        f"{count} of {of} numbers are NaN (no number) or infinite, such as {words(example)}: the arithmetic broke down",
        "go back to the last checkpoint (--on-alarm rollback). If it comes again: --set engine.precision=fp32, --set "
        "generator.clip=1 --set discriminator.clip=1, half of generator.learning_rate and discriminator.learning_rate; "
        "if it comes at the same step, look for a damaged picture",
        severe=True,
    )


def growing_weights(trace: Trace) -> Finding | None:
    """Weights far above where they began or can be, or steadily on their way there; the worst of all."""
    found = [_growth(trace, network, part) for network in _NETWORKS for part in _LAYERS]
    return max((each for each in found if each), key=lambda each: each.size, default=None)


def _growth(trace: Trace, network: str, part: str) -> Finding | None:
    name = f"weight/{network}{part}"
    now, first, recent = trace.now(name), trace.early[0].get(name), trace.last(name, WINDOW)
    if now is None or not first or now < SMALL_WEIGHT:
        return None
    steady = bool(recent) and recent[-1] > 2 * recent[0] and all(b > STEADY * a for a, b in pairwise(recent))
    if not steady and now < GROWN * first and now < LARGE_WEIGHT[part]:
        return None
    return Finding(
        f"growing weights in the {network}",
        f"the {network}'s weights{_LAYERS[part]} have a root mean square of {short(now)}, where 0.02 to 0.3 is usual"
        + (f"; at the first reading it was {short(first)}" if now > first else ""),
        f"a smaller {network}.learning_rate, --set {network}.clip=1, --set {network}.weight_decay=1e-4"
        + (", --set discriminator.norm=spectral" if network == "discriminator" else ""),
        severe=True,
        size=now,
    )


def frozen(trace: Trace) -> Finding | None:
    """Weights that do not change at all though there were steps, and the learning rate is not 0."""
    for network in _NETWORKS:
        weights = [values for part in _LAYERS if (values := trace.last(f"weight/{network}{part}"))]
        rates, usual = trace.last(f"rate/{network}"), trace.at_first(f"rate/{network}")
        idle = bool(rates) and usual is not None and min(rates) <= IDLE_RATE * usual
        # A discriminator that is updated seldom has no loss in the readings between.
        updated = bool(trace.last(f"loss/{network}"))
        if not weights or not updated or idle or any(max(values) > min(values) for values in weights):
            continue
        gradient = trace.now(f"gradient/{network}")
        return Finding(
            f"frozen {network}",
            f"the {network}'s weights are exactly the same in {PERSISTENT} readings; its gradient is "
            + ("missing" if gradient is None else short(gradient)),
            f"it is not updated: see that {network}.learning_rate is large enough for weights to change. With "
            "fp16, steps whose gradients overflow are skipped: --set engine.precision=bf16. Or changed code leaves its "
            "step out",
            severe=True,
        )
    return None


def no_gradient(trace: Trace) -> Finding | None:
    """A network, or its first layer, whose gradient is exactly zero though its loss is not."""
    for network in _NETWORKS:
        gradient, loss = trace.last(f"gradient/{network}"), trace.last(f"loss/{network}")
        last = trace.last(f"gradient/{network}_last")
        first = [reading.get(f"gradient/{network}_first", 0.0) for reading in trace.recent[-PERSISTENT:]]
        if last and max(first) == 0 < min(last):
            seen = f"the first layer of the {network} gets no gradient, its last layer one of {short(last[-1])}"
        elif gradient and loss and max(gradient) == 0 and abs(median(loss)) > SMALL_LOSS[network]:
            seen = f"the {network} gets no gradient at all, its loss is {short(loss[-1])}"
        else:
            continue
        return Finding(
            f"no gradient in the {network}",
            seen,
            "a part is cut off from the loss, such as by a misplaced detach or no_grad in changed code. With fp16, "
            "small gradients become 0: --set engine.precision=bf16",
            severe=True,
        )
    return None


def vanishing_gradient(trace: Trace) -> Finding | None:
    """The first layer's gradient fades against the last layer's."""
    for network in _NETWORKS:
        names = f"gradient/{network}_first", f"gradient/{network}_last"
        first, last = (trace.last(name) for name in names)
        first_before, last_before = (trace.at_first(name) for name in names)
        if not first or not last or min(last) <= 0 or not first_before or not last_before:
            continue
        ratio = max(a / b for a, b in zip(first, last, strict=True))
        before = first_before / last_before
        if 0 < ratio < VANISHED * before:
            return Finding(
                f"vanishing gradient in the {network}",
                f"the gradient of the {network}'s first layer is {short(ratio)} times that of its last layer; at first "
                f"it was {short(before)} times. Its first layers hardly learn",
                f"a smaller {network}.learning_rate, --set engine.precision=fp32"
                + (", --set discriminator.norm=spectral" if network == "discriminator" else ""),
                severe=False,
            )
    return None


def dominant_loss(trace: Trace) -> Finding | None:
    """One loss that drowns the others, for long."""
    for term in TERMS:
        shares = [share(reading, term) for reading in trace.recent[-PERSISTENT:]]
        if len(shares) < PERSISTENT or any(each is None or each <= DOMINANT for each in shares):
            continue
        return Finding(
            f"dominant {term} loss",
            f"{100 * (shares[-1] or 0):.4g} % of the gradient in the generated pictures comes from the {term} loss, "
            "the others hardly count",
            f"a smaller losses.{term}_weight, or a larger one for the loss that is drowned",
            severe=False,
            patience=PATIENCE,
        )
    return None


def share(reading: dict[str, float], term: str) -> float | None:
    """The part of a loss in the gradients of the pictures, 0..1; None if it is the only one or nothing was measured."""
    sizes = {each: reading[name] for each in TERMS if (name := f"picture_gradient/{each}") in reading}
    total = sum(sizes.values())
    return sizes.get(term, 0.0) / total if total > 0 and sizes.keys() - {term} else None


def tinted_patches(trace: Trace) -> Finding | None:
    """Patches of other colours than the originals, for five readings."""
    return _tint(trace, PERSISTENT + 2, "patches")


def tinted_pictures(trace: Trace) -> Finding | None:
    """Whole pictures of other colours than the originals, in two validations."""
    return _tint(trace, 2, "validation pictures")


def _tint(trace: Trace, count: int, what: str) -> Finding | None:
    """Colours that are off to the same side each time, unevenly, and not on their way back."""
    channels = [trace.last(colour, count) for colour in _COLOURS]
    if not all(channels):
        return None
    worst = max(channels, key=lambda values: abs(values[-1]))
    spread = min(max(offsets) - min(offsets) for offsets in zip(*channels, strict=True))
    same_side = min(worst) > TINT or max(worst) < -TINT
    if not same_side or spread < TINT_SPREAD or abs(worst[-1]) < 0.9 * max(map(abs, worst)):
        return None
    red, green, blue = (values[-1] for values in channels)
    return Finding(
        f"colour tint in {what}",
        f"the colours of generated {what} are off by {red:+.1f} (red), {green:+.1f} (green) and {blue:+.1f} (blue) "
        "levels of 255",
        "a larger losses.pixel_weight (10 times), a smaller losses.adversarial_weight or generator.learning_rate",
        severe=False,
        size=abs(worst[-1]),
    )


def diverged(trace: Trace) -> Finding | None:
    """A loss of the generator far above its best. Adversarial ones rise and fall, evenness begins near 0: left out."""
    for term in ("pixel", "feature", "texture"):
        recent, best = trace.last(f"loss/{term}"), trace.lowest.get(f"loss/{term}", 0.0)
        if recent and 0 < best * DIVERGED[bool(trace.adversarial)] < median(recent):
            return Finding(
                "divergence",
                f"the {term} loss is {short(median(recent))}, {short(median(recent) / best)} times its best",
                f"go back to the last checkpoint (--on-alarm rollback); {_calmer(trace)}",
                severe=True,
                size=median(recent) / best,
            )
    return None


def lost_psnr(trace: Trace) -> Finding | None:
    """Validation far below its best in this stage."""
    now, best = trace.now("psnr"), trace.highest
    if now is None or best - now < PSNR_DROP[bool(trace.adversarial)]:
        return None
    return Finding(
        "lost PSNR",
        f"the validation pictures have a PSNR of {now:.2f} dB, {best - now:.1f} dB below the best of this stage",
        f"go back to the last checkpoint (--on-alarm rollback); {_calmer(trace)}",
        severe=True,
        size=best - now,
    )


def _calmer(trace: Trace) -> str:
    more = ", a smaller losses.adversarial_weight or a larger losses.pixel_weight" if trace.adversarial else ""
    return f"half of generator.learning_rate, --set generator.clip=1{more}"
