"""Sequence models give the same step by step and as a whole, and look neither ahead nor too far back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tspace_core.agents.flat import FlatParameters
from tspace_core.agents.sequence_models import SequenceModel, sequence_model
from tspace_core.config import RDPGHyperparameters

INPUTS = 3
HYPER = {
    "lstm": RDPGHyperparameters(width=12, layers=2),
    "transformer": RDPGHyperparameters(sequence_model="transformer", width=12, layers=2, heads=3, context=9),
    "narrow": RDPGHyperparameters(sequence_model="transformer", width=8, layers=3, heads=2, context=2),
}


def model(kind: str, seed: int = 0) -> SequenceModel:
    """With weights as strong as after some training, so that differences show."""
    made = sequence_model(INPUTS, HYPER[kind], torch.Generator().manual_seed(seed))
    flat = FlatParameters(made)
    noise = torch.randn(flat.values.shape, generator=torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        for view in flat.named(noise).values():
            view.mul_(0.3)
        for name, view in flat.named(flat.values.data).items():
            view.add_(flat.named(noise)[name])
    return made


def series(count: int, steps: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, steps, INPUTS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", HYPER)
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 12), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_pieces_give_what_the_whole_gives(kind: str, cuts: list[int], seed: int) -> None:
    network, inputs = model(kind), series(3, sum(cuts), seed)
    with torch.no_grad():
        whole, after = network.unroll(inputs, None)
        memory, pieces = None, []
        for piece in torch.split(inputs, cuts, dim=1):
            features, memory = network.unroll(piece, memory)
            pieces.append(features)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(memory, after, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", HYPER)
def test_an_empty_memory_is_zeros(kind: str) -> None:
    network, inputs = model(kind), series(4, 7)
    with torch.no_grad():
        one, _ = network.unroll(inputs, None)
        other, _ = network.unroll(inputs, torch.zeros(4, network.memory_dim))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert 0 <= network.stored_dim <= network.memory_dim


@pytest.mark.parametrize("kind", HYPER)
def test_places_with_memories_of_other_lengths_do_not_meddle(kind: str) -> None:
    network = model(kind)
    long, short = series(1, 30, 1), series(1, 4, 2)
    with torch.no_grad():
        alone = [network.unroll(one, None)[0][0, -2:] for one in (long, short)]
        memories = [network.unroll(one[:, :-2], None)[1] for one in (long, short)]
        both = torch.cat([long[:, -2:], short[:, -2:]])
        together, _ = network.unroll(both, torch.cat(memories))
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", HYPER)
def test_later_steps_do_not_matter(kind: str) -> None:
    network, inputs = model(kind), series(2, 20)
    changed = inputs.clone()
    changed[:, 11:] = 100.0
    with torch.no_grad():
        before, after = (network.unroll(one, None)[0] for one in (inputs, changed))
    torch.testing.assert_close(before[:, :11], after[:, :11], atol=1e-5, rtol=0)
    assert not torch.allclose(before[:, 11:], after[:, 11:])


@pytest.mark.parametrize(("kind", "sees"), [("transformer", 9), ("narrow", 1)])
def test_a_transformer_sees_its_context_only(kind: str, sees: int) -> None:
    """Of three blocks in a context of 2 each sees one step: what three of two steps see is 4, too many."""
    network, inputs = model(kind), series(1, 40)
    inputs.requires_grad_()
    network.unroll(inputs, None)[0][0, 30].sum().backward()  # type: ignore[no-untyped-call]
    assert inputs.grad is not None
    seen = np.flatnonzero(inputs.grad[0].abs().sum(dim=1).numpy()).tolist()
    assert seen == list(range(31 - sees, 31))


def test_an_lstm_remembers_from_the_beginning() -> None:
    network, inputs = model("lstm"), series(1, 40)
    inputs.requires_grad_()
    network.unroll(inputs, None)[0][0, -1].sum().backward()  # type: ignore[no-untyped-call]
    assert inputs.grad is not None
    assert (inputs.grad[0].abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("kind", HYPER)
def test_only_the_generator_decides_the_weights(kind: str) -> None:
    state = torch.get_rng_state()
    first, again, other = (
        FlatParameters(sequence_model(INPUTS, HYPER[kind], torch.Generator().manual_seed(seed))).values
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_memory_s_length_is_what_the_docs_say() -> None:
    assert model("lstm").memory_dim == model("lstm").stored_dim == 2 * 2 * 12
    transformer = model("transformer")
    assert transformer.memory_dim == 2 * 4 * 2 * 12 + 1, "keys and values of 4 past steps in each of 2 blocks"
    assert transformer.stored_dim == 0


def test_heads_share_the_width() -> None:
    with pytest.raises(ValueError, match="width is 10, which 4 heads cannot share"):
        RDPGHyperparameters(sequence_model="transformer", width=10, heads=4)
    assert RDPGHyperparameters(width=10, heads=4).width == 10, "an LSTM has no heads"


def test_what_is_learned_from_sees_as_far_back_as_driving() -> None:
    assert RDPGHyperparameters().burn_in == 40
    assert RDPGHyperparameters(sequence_model="transformer").burn_in == 63
    assert RDPGHyperparameters(sequence_model="transformer", context=9, burn_in=8).burn_in == 8
    assert RDPGHyperparameters(burn_in=0, context=9).burn_in == 0, "an LSTM's memory is stored"
    with pytest.raises(ValueError, match="burn_in is 40, a Transformer with a context of 64 steps needs 63"):
        RDPGHyperparameters(sequence_model="transformer", burn_in=40)


@pytest.mark.parametrize("kind", ["transformer", "narrow"])
def test_the_default_burn_in_gives_a_transformer_s_memory_back(kind: str) -> None:
    network, inputs, burn_in = model(kind), series(2, 40), HYPER[kind].burn_in
    with torch.no_grad():
        whole, _ = network.unroll(inputs, None)
        _, memory = network.unroll(inputs[:, -burn_in - 1 : -1], None)
        last, _ = network.unroll(inputs[:, -1:], memory)
    torch.testing.assert_close(last, whole[:, -1:], atol=1e-5, rtol=0)


def test_sequences_overlap_by_half_and_leave_nothing_out() -> None:
    assert RDPGHyperparameters(length=30, burn_in=10).sequence_stride == 20
    assert RDPGHyperparameters(length=20, burn_in=10).sequence_stride == 10, "less than half of 30"
    assert RDPGHyperparameters(length=5, burn_in=10).sequence_stride == 1
    for length, burn_in in np.random.default_rng(0).integers((1, 0), (40, 40), (50, 2)).tolist():
        stride = RDPGHyperparameters(length=length, burn_in=burn_in).sequence_stride
        learned = set(range(length))
        for first in range(stride, 300, stride):
            learned |= set(range(first + burn_in, first + burn_in + length))
        if burn_in < length:
            assert learned >= set(range(250)), f"length {length}, burn-in {burn_in}"
