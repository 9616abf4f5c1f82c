"""Gathers records and sequences from rows that lie anywhere in memory, compiled.

A random row is not in any cache, and what a copy waits for is the memory. So the rows that come a little
later are asked for while one is copied, into the second-level cache: the first level can only wait for a few
lines at a time, which makes the same loop with a prefetch into it half as fast. That way a gather of random
rows comes close to a copy in one piece.

Rows are addressed by number; segment ``row >> bits`` lies at ``bases[(row >> bits) - first]``. The episodes
are rows ``[end, shift, length, terminal]`` of one table: ``end`` is the number after its last record, the row
of record k is ``k + shift``. ``blocks`` holds for every 64 records the first episode that may hold them.

Nothing is checked here: the caller vouches for the table, the bases and the numbers.
"""

from typing import Any

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from tspace_core.compiled import compiled

END, SHIFT, LENGTH, TERMINAL = range(4)
BLOCK_BITS = 6
LINE = 64
AHEAD = 16
"""Rows asked for before their turn."""


@intrinsic  # type: ignore[untyped-decorator]
def _ask_for(context: Any, address: Any) -> Any:
    """Begin to load the cache line at ``address`` into the second-level cache."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        ir = cgutils.ir
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        read, second_level, data = (ir.Constant(word, value) for value in (0, 2, 1))
        builder.call(prefetch, [builder.inttoptr(arguments[0], pointer), read, second_level, data])
        return context.get_dummy_value()

    return types.void(types.int64), code


@intrinsic  # type: ignore[untyped-decorator]
def _copy(context: Any, target: Any, source: Any, size: Any) -> Any:
    """Copy ``size`` bytes from one address to another."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = cgutils.ir.IntType(8).as_pointer()
        target, source = (builder.inttoptr(address, pointer) for address in arguments[:2])
        cgutils.raw_memcpy(builder, target, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), code


@compiled
def _ask_for_bytes(address: Any, size: Any) -> None:
    for offset in range(0, size, LINE):
        _ask_for(address + offset)
    _ask_for(address + size - 1)


@compiled
def _address(row: Any, bases: Any, first: int, bits: int, row_bytes: int) -> Any:
    segment = row >> bits
    return bases[segment - first] + (row - (segment << bits)) * row_bytes


@compiled
def _episode_of(record: Any, table: Any, blocks: Any, origin: int) -> Any:
    episode = blocks[(record - origin) >> BLOCK_BITS]
    while table[episode, END] <= record:
        episode += 1
    return episode


@compiled
def find(records: Any, table: Any, blocks: Any, origin: int, rows: Any, terminals: Any) -> None:
    """Row of each record and whether it is terminal; ``origin`` is the record that ``blocks`` begins with."""
    for i in range(records.size):
        record = records[i]
        episode = _episode_of(record, table, blocks, origin)
        rows[i] = record + table[episode, SHIFT]
        terminals[i] = np.float32(table[episode, TERMINAL] and record == table[episode, END] - 1)


@compiled
def gather(
    rows: Any,
    bases: Any,
    first: int,
    bits: int,
    states: Any,
    actions: Any,
    rewards: Any,
    next_states: Any,
    first_rows: Any,
) -> None:
    """Split the records at ``rows`` into their fields, as ``sample`` does."""
    state, action = 4 * states.shape[1], 4 * actions.shape[1]
    row_bytes = state + action + 8
    to_state, to_action, to_next = states.ctypes.data, actions.ctypes.data, next_states.ctypes.data
    for i in range(rows.size + AHEAD):
        k = i - AHEAD
        if k >= 0:
            source = _address(rows[k], bases, first, bits, row_bytes)
            _copy(to_state + k * state, source, state)
            _copy(to_action + k * action, source + state, action)
            _copy(rewards.ctypes.data + 4 * k, source + state + action, 4)
            _copy(first_rows.ctypes.data + 4 * k, source + state + action + 4, 4)
            _copy(to_next + k * state, source + row_bytes, state)
        if i < rows.size:
            _ask_for_bytes(_address(rows[i], bases, first, bits, row_bytes), row_bytes + state)


@compiled
def sample(
    uniform: Any,
    begin: int,
    count: int,
    table: Any,
    blocks: Any,
    origin: int,
    bases: Any,
    first: int,
    bits: int,
    states: Any,
    actions: Any,
    rewards: Any,
    next_states: Any,
    terminals: Any,
    first_rows: Any,
) -> None:
    """Gather the records ``begin + floor(uniform * count)`` into their fields.

    ``states`` and ``next_states`` are (n, state_dim), ``actions`` (n, action_dim), the others (n,), all of
    them float32 and C-contiguous.
    """
    state, action = 4 * states.shape[1], 4 * actions.shape[1]
    row_bytes = state + action + 8
    to_state, to_action, to_next = states.ctypes.data, actions.ctypes.data, next_states.ctypes.data
    sources = np.empty(AHEAD, np.int64)
    for i in range(uniform.size + AHEAD):
        k = i - AHEAD
        if k >= 0:
            source = sources[k & (AHEAD - 1)]
            _copy(to_state + k * state, source, state)
            _copy(to_action + k * action, source + state, action)
            _copy(rewards.ctypes.data + 4 * k, source + state + action, 4)
            _copy(first_rows.ctypes.data + 4 * k, source + state + action + 4, 4)
            _copy(to_next + k * state, source + row_bytes, state)
        if i < uniform.size:
            record = begin + np.int64(uniform[i] * count)
            episode = _episode_of(record, table, blocks, origin)
            terminals[i] = np.float32(table[episode, TERMINAL] and record == table[episode, END] - 1)
            source = _address(record + table[episode, SHIFT], bases, first, bits, row_bytes)
            sources[i & (AHEAD - 1)] = source
            _ask_for_bytes(source, row_bytes + state)


@compiled
def find_sequences(
    uniform: Any,
    low: int,
    high: int,
    starts: Any,
    table: Any,
    length: int,
    stride: int,
    records: Any,
    found: Any,
) -> None:
    """First record and number of records of sequences, drawn evenly from episodes ``low`` to ``high``.

    ``starts[e]`` counts the sequences of the episodes before e.
    """
    total = starts[high] - starts[low]
    for i in range(uniform.size):
        drawn = starts[low] + np.int64(uniform[i] * total)
        left, right = low, high
        while left + 1 < right:  # starts[left] <= drawn < starts[right]
            middle = (left + right) >> 1
            if starts[middle] <= drawn:
                left = middle
            else:
                right = middle
        whole = table[left, LENGTH]
        offset = min((drawn - starts[left]) * stride, max(whole - length, 0))
        records[i] = table[left, END] - whole + offset
        found[i] = min(length, whole)


@compiled
def gather_sequences(
    rows: Any,
    counts: Any,
    ends_terminal: Any,
    bases: Any,
    first: int,
    bits: int,
    states: Any,
    actions: Any,
    rewards: Any,
    terminals: Any,
    mask: Any,
    first_rows: Any,
) -> None:
    """Split ``counts[i]`` records from ``rows[i]`` on into their fields; what is left of each is zeroed.

    ``states`` is (n, T + 1, state_dim), ``actions`` (n, T, action_dim), the others (n, T). ``ends_terminal``
    says whether the last of the records is terminal.
    """
    steps = actions.shape[1]
    state, action = 4 * states.shape[2], 4 * actions.shape[2]
    row_bytes = state + action + 8
    to_state, to_action = states.ctypes.data, actions.ctypes.data
    for i in range(rows.size):
        source = _address(rows[i], bases, first, bits, row_bytes)
        count = counts[i]
        following = min(i + 1, rows.size - 1)
        after = _address(rows[following], bases, first, bits, row_bytes)
        if i == 0:
            _ask_for_bytes(source, min(AHEAD, count) * row_bytes)
        for t in range(count):
            # The rows of a sequence follow each other; the next one's begin as soon as this one's run out.
            if t + AHEAD < count:
                _ask_for_bytes(source + AHEAD * row_bytes, row_bytes)
            elif t + AHEAD - count < counts[following]:
                _ask_for_bytes(after + (t + AHEAD - count) * row_bytes, row_bytes)
            _copy(to_state, source, state)
            _copy(to_action, source + state, action)
            _copy(rewards.ctypes.data + 4 * (i * steps + t), source + state + action, 4)
            _copy(first_rows.ctypes.data + 4 * (i * steps + t), source + state + action + 4, 4)
            terminals[i, t] = 0.0
            mask[i, t] = 1.0
            to_state += state
            to_action += action
            source += row_bytes
        _copy(to_state, source, state)
        to_state += state
        if ends_terminal[i]:
            terminals[i, count - 1] = 1.0
        if count < steps:
            states[i, count + 1 :] = 0.0
            actions[i, count:] = 0.0
            rewards[i, count:] = 0.0
            terminals[i, count:] = 0.0
            mask[i, count:] = 0.0
            first_rows[i, count:] = 0.0
            to_state += state * (steps - count)
            to_action += action * (steps - count)
