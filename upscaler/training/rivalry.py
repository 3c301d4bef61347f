"""What can be wrong between discriminator and generator: each fault is a function of a trace.

Losses are judged against that of guessing, which is that of a discriminator that cannot tell real from generated
pictures at all, and against the least that is possible with the discriminator's mean outputs: the losses are convex in
the outputs, so by Jensen's inequality their mean cannot be below the loss of the means.
"""

from __future__ import annotations

import math
from statistics import median

from upscaler.training.symptoms import VANISHED, share
from upscaler.training.traces import PATIENCE, PERSISTENT, Finding, Trace, short

LARGE_OUTPUT = 100.0
"""Healthy discriminators give outputs of a few units; ESRGAN's with batch norm up to about 50."""

LARGE_SCORE = 1000.0
"""The same for WGAN, whose outputs are distances between pictures from no particular zero."""

ALIKE = 0.1
"""Difference between the outputs for real and generated pictures, relative to how far from 0 both are."""

SATURATED = 1e-3
"""Share of the loss of guessing. Good runs of ESRGAN with batch norm are at 2e-3 to 1e-2, seldom below."""

GUESSING = 0.01
"""Relative distance from the loss of guessing within which nothing has been learnt."""

LOW = 0.9
"""Share of the loss of guessing that is impossible with outputs that are no better than guessing."""

FADED = 1e-5
"""Share of the adversarial loss in the gradient of the pictures; 1e-3 is what spectral norm begins with."""


def large_outputs(trace: Trace) -> Finding | None:
    """Outputs of the discriminator in the hundreds, twice; in the thousands at once."""
    limit = LARGE_SCORE if trace.adversarial == "wgan" else LARGE_OUTPUT
    now, twice = trace.now("output/largest"), trace.last("output/largest", 2)
    if now is None or (now < 10 * limit and (not twice or min(twice) < limit)):
        return None
    return Finding(
        "large outputs",
        f"the discriminator's outputs reach {short(now)}, where a few units are usual",
        "--set discriminator.norm=spectral bounds them; else a smaller discriminator.learning_rate, "
        "--set discriminator.weight_decay=1e-4",
        severe=now >= 10 * limit,
        size=now / limit,
    )


def lost_gradient(trace: Trace) -> Finding | None:
    """A discriminator whose gradient has gone though it is far from right."""
    gradient, loss = trace.last("gradient/discriminator"), trace.last("loss/discriminator")
    first = trace.at_first("gradient/discriminator")
    if not gradient or not loss or not first or not 0 < 0.5 * guess(trace) < median(loss):
        return None
    if not 0 < median(gradient) < VANISHED * first:
        return None
    return Finding(
        "vanishing gradient in the discriminator",
        f"the discriminator's gradient fell from {short(first)} to {short(median(gradient))}, though its loss is still "
        f"{short(median(loss))}: it hardly learns",
        "--set discriminator.norm=spectral, a smaller discriminator.learning_rate, --set engine.precision=fp32",
        severe=False,
    )


def one_sided(trace: Trace) -> Finding | None:
    """Outputs for real and generated pictures that run off together, at a loss of guessing or worse."""
    loss, outputs = trace.last("loss/discriminator"), _outputs(trace)
    if not loss or not outputs or trace.adversarial == "wgan":
        return None
    for value, (real, fake) in zip(loss, outputs, strict=True):
        level = abs(real + fake) / 2
        # Relativistic losses do not fix the level, so far from 0 a loss that is worse than guessing is enough.
        if abs(real - fake) > ALIKE * level or value < (1 if level > 5 else 1.5) * guess(trace):
            return None
    real, fake = outputs[-1]
    return Finding(
        "one-sided discriminator",
        f"the discriminator gives real pictures {short(real)} and generated ones {short(fake)}, alike and far from "
        f"0; its loss is {short(loss[-1])}, guessing would cost {short(guess(trace))}",
        "it learns from one kind of pictures only, such as by a misplaced detach in changed code; else --set "
        "discriminator.norm=spectral and a smaller discriminator.learning_rate",
        severe=True,
    )


def swapped_labels(trace: Trace) -> Finding | None:
    """A loss that is low though the outputs are wrong: real is learnt as fake, or both as the same."""
    loss, outputs = trace.last("loss/discriminator"), _outputs(trace)
    if not loss or not outputs:
        return None
    least = [_least_loss(trace.adversarial, real, fake) for real, fake in outputs]
    # WGAN's loss is the difference of the outputs, and that of guessing is 0.
    low, high = (LOW * guess(trace), guess(trace)) if guess(trace) else (-0.1, 0.1)
    if max(loss) > low or min(least) < high:
        return None
    real, fake = outputs[-1]
    return Finding(
        "swapped labels",
        f"the discriminator's loss is low ({short(loss[-1])}), yet it gives real pictures {short(real)} and generated "
        f"ones {short(fake)}; with right labels such outputs cost {short(least[-1])} or more",
        "it learns that generated pictures are real: see where changed code makes labels or calls the discriminator's "
        "loss, and that stabilisers.label_flips is well below 0.5",
        severe=True,
    )


def saturated(trace: Trace) -> Finding | None:
    """A discriminator that is right about every picture, for five readings: there is nothing to learn from it."""
    loss, outputs = trace.last("loss/discriminator", PERSISTENT + 2), _outputs(trace)
    if not loss or not outputs or trace.adversarial == "wgan":
        return None
    if median(loss) >= SATURATED * guess(trace) or any(real <= fake for real, fake in outputs):
        return None
    real, fake = outputs[-1]
    adversarial = share(trace.recent[-1], "adversarial")
    return Finding(
        "saturated discriminator",
        f"the discriminator is right about every picture: its loss is {short(median(loss))}, guessing would cost "
        f"{short(guess(trace))}; real pictures get {short(real)}, generated ones {short(fake)}"
        + ("" if adversarial is None else f", and {100 * adversarial:.2g} % of the generator's gradient comes from it"),
        "make it weaker: a smaller discriminator.learning_rate, --set discriminator.every=2, "
        "--set stabilisers.smoothing=0.1, --set stabilisers.instance_noise=10 or --set discriminator.norm=spectral",
        severe=False,
    )


def not_learning(trace: Trace) -> Finding | None:
    """A discriminator that only guesses, for long."""
    loss, outputs = trace.last("loss/discriminator"), _outputs(trace)
    if not loss or not outputs or trace.adversarial == "wgan":
        return None
    if max(abs(value / guess(trace) - 1) for value in loss) >= GUESSING:
        return None
    real, fake = outputs[-1]
    return Finding(
        "discriminator not learning",
        f"the discriminator's loss has been that of guessing, {short(median(loss))}, for {PATIENCE} steps; real "
        f"pictures get {short(real)}, generated ones {short(fake)}",
        "make it stronger: a larger discriminator.learning_rate, --set discriminator.steps=2, "
        "--set discriminator.norm=batch, less stabilisers.instance_noise and stabilisers.smoothing",
        severe=False,
        patience=PATIENCE,
    )


def no_adversarial_gradient(trace: Trace) -> Finding | None:
    """A generator that learns nothing from the discriminator."""
    recent = trace.recent[-PERSISTENT:] if trace.last("loss/adversarial") else []
    shares = [each for reading in recent if (each := share(reading, "adversarial")) is not None]
    if len(shares) < PERSISTENT or max(shares) >= FADED:
        return None
    none = max(shares) == 0
    return Finding(
        "no adversarial gradient",
        "the generator learns "
        + (
            "nothing from the discriminator: the adversarial loss has no gradient in the generated pictures"
            if none
            else f"next to nothing from the discriminator, {100 * shares[-1]:.1g} % of the gradient in its pictures"
        ),
        "it is cut off from the discriminator, such as by no_grad or a detach in changed code"
        if none
        else "a larger losses.adversarial_weight, and a weaker discriminator: a smaller discriminator.learning_rate, "
        "--set stabilisers.smoothing=0.1",
        severe=none,
    )


def guess(trace: Trace) -> float:
    """The loss of a discriminator that cannot tell real from generated pictures; 0 without one."""
    undecided = 0.5 if trace.adversarial == "lsgan" else 0.0
    return _least_loss(trace.adversarial, undecided, undecided)


def _least_loss(adversarial: str | None, real: float, fake: float) -> float:
    """The least loss that outputs with these means can have, by the formulas of ``losses.discriminator_loss``."""
    if adversarial == "standard":
        return _softplus(-real) + _softplus(fake)
    if adversarial in ("relativistic", "relativistic-average"):
        return _softplus(fake - real)
    if adversarial == "lsgan":
        return (real - 1) ** 2 + fake**2
    if adversarial == "hinge":
        return max(0.0, 1 - real) + max(0.0, 1 + fake)
    return fake - real


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _outputs(trace: Trace) -> list[tuple[float, float]]:
    """Mean outputs for real and for generated pictures in the last readings."""
    real, fake = trace.last("output/real"), trace.last("output/fake")
    return list(zip(real, fake, strict=True)) if real and fake else []
