"""Flow matching: paths, samplers, guidance, distillation, for arrays of both libraries where both are there."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from visavis.engine import diffusion


def _libraries() -> list[Callable[[Any], Any]]:
    libraries: list[Callable[[Any], Any]] = [np.asarray]
    if find_spec("torch"):
        import torch

        libraries.append(lambda values: torch.from_numpy(np.asarray(values)))
    return libraries


each_library = pytest.mark.parametrize("array", _libraries())


def normals(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@each_library
def test_both_ends_of_the_path_follow_from_a_velocity(array: Callable[[Any], Any]) -> None:
    noise, x = array(normals(3, 5, 2)), array(normals(3, 5, 2, seed=1))
    t = array(np.array([0.0, 0.3, 0.9]))
    x_t = diffusion.mix(noise, x, t)
    assert type(x_t) is type(x)
    np.testing.assert_allclose(x_t[0], noise[0])
    np.testing.assert_allclose(x_t[1], 0.7 * noise[1] + 0.3 * x[1])
    v = diffusion.velocity(noise, x)
    np.testing.assert_allclose(diffusion.x_of_velocity(v, x_t, t), x)
    np.testing.assert_allclose(diffusion.noise_of_velocity(v, x_t, t), noise)
    np.testing.assert_allclose(diffusion.velocity_of_x(x, x_t, t), v, atol=1e-9)
    assert np.isfinite(np.asarray(diffusion.velocity_of_x(x, x_t, 1.0))).all()


def test_times_of_a_grid_of_leading_axes() -> None:
    noise, x, t = normals(2, 3, 4), normals(2, 3, 4, seed=1), np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    np.testing.assert_allclose(diffusion.mix(noise, x, t)[1, 2], 0.4 * noise[1, 2] + 0.6 * x[1, 2])


def test_schedules_run_from_noise_to_data() -> None:
    assert diffusion.schedule(1) == [0.0, 1.0]
    assert diffusion.schedule(4) == [0.0, 0.25, 0.5, 0.75, 1.0]
    early = diffusion.schedule(4, shift=3.0)
    assert early[0] == 0 and early[-1] == 1 and all(np.diff(early) > 0) and early[2] < 0.5
    with pytest.raises(ValueError, match="at least one step, not 0"):
        diffusion.schedule(0)


@each_library
def test_logit_normal_times(array: Callable[[Any], Any]) -> None:
    t = np.asarray(diffusion.logit_normal(array(normals(20000)), -0.5, 1.0))
    assert t.min() > 0 and t.max() < 1
    assert abs(np.median(t) - 1 / (1 + np.exp(0.5))) < 0.01


def gaussian(mean: float, spread: float) -> Callable[[Any, float], Any]:
    """The ideal prediction where the data are normal."""

    def predict(x_t: Any, t: float) -> Any:
        gain = t * spread**2 / ((1 - t) ** 2 + t**2 * spread**2)
        return mean + gain * (x_t - t * mean)

    return predict


@each_library
def test_samplers_give_the_datas_distribution(array: Callable[[Any], Any]) -> None:
    predict, noise = gaussian(2.0, 0.5), array(normals(4000))
    errors = {}
    for name, sample in (("euler", diffusion.euler), ("heun", diffusion.heun)):
        for steps in (4, 32):
            made = np.asarray(sample(predict, noise, diffusion.schedule(steps)))
            assert abs(made.mean() - 2.0) < 0.03
            errors[name, steps] = abs(made.std() - 0.5 * np.asarray(noise).std())
    assert errors["euler", 32] < errors["euler", 4] / 4
    assert errors["heun", 4] < errors["euler", 4] / 2


def test_one_step_is_the_prediction_from_noise() -> None:
    noise = normals(6)
    np.testing.assert_array_equal(
        diffusion.euler(gaussian(1.0, 0.5), noise, [0.0, 1.0]), gaussian(1.0, 0.5)(noise, 0.0)
    )


def test_renoising_with_an_ideal_consistency_function_keeps_the_distribution() -> None:
    def consistent(x_t: Any, t: float) -> Any:  # where the flow from (x_t, t) ends, for N(2, 0.5)
        return 2.0 + 0.5 * (x_t - 2.0 * t) / np.sqrt((1 - t) ** 2 + (0.5 * t) ** 2)

    made = diffusion.renoise(consistent, [normals(20000, seed=k) for k in range(3)], [0.0, 0.4, 0.7, 1.0])
    assert abs(made.mean() - 2.0) < 0.02 and abs(made.std() - 0.5) < 0.02


@each_library
def test_guidance(array: Callable[[Any], Any]) -> None:
    given, free = array(normals(4)), array(normals(4, seed=1))
    np.testing.assert_allclose(diffusion.guided(given, free, 1.0), given)
    np.testing.assert_allclose(diffusion.guidance_target(given, free, 2.0), 2 * given - free)


@each_library
def test_a_straight_flow_is_its_own_shortcut_and_consistency_target(array: Callable[[Any], Any]) -> None:
    noise, x = array(normals(3, 4)), array(normals(3, 4, seed=1))
    t, size = array(np.array([0.0, 0.25, 0.5])), array(np.array([1.0, 0.5, 0.5]))
    x_t = diffusion.mix(noise, x, t)
    target = diffusion.shortcut_target(lambda *_: x, x_t, t, size)
    np.testing.assert_allclose(target, x, atol=1e-9)
    later = diffusion.consistency_pair(lambda *_: x, x_t, t, t + 0.2)
    np.testing.assert_allclose(later, diffusion.mix(noise, x, t + 0.2), atol=1e-9)


def test_a_curved_flows_shortcut_is_where_two_half_steps_land() -> None:
    predict, x_0 = gaussian(2.0, 0.5), normals(50)
    target = diffusion.shortcut_target(lambda x, t, _: predict(x, t), x_0, 0.0, 1.0)
    np.testing.assert_allclose(target, x_0 + 1.0 * (target - x_0))
    first = x_0 + 0.5 * (predict(x_0, 0.0) - x_0)
    np.testing.assert_allclose(target, first + 0.5 * diffusion.velocity_of_x(predict(first, 0.5), first, 0.5))


@each_library
def test_losses_and_histories(array: Callable[[Any], Any]) -> None:
    a, b = array(normals(2, 6, 3)), array(normals(2, 6, 3, seed=1))
    assert float(diffusion.huber(a, a).max()) < 1e-9
    np.testing.assert_allclose(diffusion.huber(a, b, 1e-6), abs(a - b), atol=1e-5)
    assert diffusion.temporal_difference(a).shape == (2, 5, 3)
    np.testing.assert_allclose(diffusion.temporal_difference(a)[:, 2], a[:, 3] - a[:, 2])
    level = array(np.array([0.0, 1.0]))
    noisy = diffusion.noisy_history(a, b, level)
    np.testing.assert_allclose(noisy[0], a[0])
    np.testing.assert_allclose(noisy[1], b[1])
    dropped = diffusion.drop_history(a, array(np.array([1.0, 0.0])), 7.0)
    np.testing.assert_allclose(dropped[0], a[0])
    assert float(dropped[1].min()) == 7 == float(dropped[1].max())
