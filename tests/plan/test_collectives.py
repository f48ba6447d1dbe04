"""The transfers between chips that a compiled program's text has: bytes, groups, and which of them can hide."""

import pytest

from cover_jax.plan import collectives, hlo_cost, hlo_text

# Forms of libtpu 0.0.42, shortened: a chain of fusions that starts, carries on and ends one gather beside a product; a
# gather that became synchronous again; a reduction of which each chip keeps its part; all in a loop of three.
PROGRAM = """HloModule jit_step, is_scheduled=true, replica_count=1, num_partitions=256

%start (p: bf16[1,128,1024]) -> (bf16[1,128,1024], bf16[1,1024,1024], s32[2]) {
  %p = bf16[1,128,1024]{2,1,0} parameter(0)
  %gather.1 = bf16[1,1024,1024]{2,1,0} all-gather(%p), channel_id=1, replica_groups=mesh['axis_0'=8,'axis_1'=1,'axis_2'=32], device_ids=([32,8]T(1,0)) {'axis_0'}, dimensions={1}, frontend_attributes={chain_id="4"}
  ROOT %s = (bf16[1,128,1024]{2,1,0}, bf16[1,1024,1024]{2,1,0}, s32[2]{0:S(4)}) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%carry (p: bf16[1,128,1024], q: bf16[8,8]) -> bf16[8,8] {
  %p = bf16[1,128,1024]{2,1,0} parameter(0)
  %q = bf16[8,8]{1,0} parameter(1)
  %gather.2 = bf16[1,1024,1024]{2,1,0} all-gather(%p), channel_id=1, replica_groups=mesh['axis_0'=8,'axis_1'=1,'axis_2'=32], device_ids=([32,8]T(1,0)) {'axis_0'}, dimensions={1}, frontend_attributes={chain_id="4"}
  ROOT %c = bf16[8,8]{1,0} convolution(%q, %q), dim_labels=bf_io->bf
}

%end (p: bf16[1,128,1024]) -> bf16[1,1024,1024] {
  %p = bf16[1,128,1024]{2,1,0} parameter(0)
  %gather.3 = bf16[1,1024,1024]{2,1,0} all-gather(%p), channel_id=1, replica_groups=mesh['axis_0'=8,'axis_1'=1,'axis_2'=32], device_ids=([32,8]T(1,0)) {'axis_0'}, dimensions={1}, frontend_attributes={chain_id="4"}
  ROOT %d = bf16[1,1024,1024]{2,1,0} custom-call(%gather.3), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.1.clone (p: bf16[1024,3072]) -> bf16[128,3072] {
  %p = bf16[1024,3072]{1,0} parameter(0)
  %reduce.1 = bf16[1024,3072]{1,0} all-reduce(%p), channel_id=2, replica_groups={{0,1,2,3,4,5,6,7},{8,9,10,11,12,13,14,15}}, to_apply=%add
  ROOT %slice = bf16[128,3072]{1,0} dynamic-slice(%reduce.1, %i), dynamic_slice_sizes={128,3072}
}

%condition (s: (s32[])) -> pred[] {
  %s = (s32[]) parameter(0)
  %n = s32[]{:T(128)} constant(3)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%body (s: (s32[])) -> (s32[]) {
  %async-collective-start.4 = (bf16[1,128,1024]{2,1,0}, bf16[1,1024,1024]{2,1,0}, s32[2]{0:S(4)}) fusion(%w), kind=kCustom, calls=%start
  %fusion.9 = bf16[8,8]{1,0} fusion(%v, %w), kind=kOutput, calls=%carry, backend_config={"window_config":{"estimated_cycles":"100"}}
  %async-collective-done.4 = bf16[1,1024,1024]{2,1,0} fusion(%v), kind=kCustom, calls=%end
  %fusion.7 = bf16[128,3072]{1,0} fusion(%u), kind=kCustom, calls=%all-reduce-scatter.1.clone
  %gather.4 = bf16[1024,3072]{1,0} all-gather(%t), channel_id=3, replica_groups=mesh['axis_0'=8,'axis_1'=32], device_ids=([32,8]T(1,0)) {'axis_0'}, dimensions={0}, frontend_attributes={async_collective_name="all-gather-start.2"}
  ROOT %t = (s32[]) tuple(%s)
}

ENTRY %main (p: f32[16]) -> f32[16] {
  %p = f32[16]{0} parameter(0)
  %w = (s32[]) while(%t), condition=%condition, body=%body
  ROOT %r = f32[16]{0} all-reduce(%p), to_apply=%add
}
"""  # noqa: E501

# As a compiler may shorten it: no chain, no number of devices, and the fusion is known by its name alone.
BY_NAME = """HloModule m

%inner (p: bf16[128,1024]) -> bf16[1024,1024] {
  %p = bf16[128,1024]{1,0} parameter(0)
  ROOT %gather = bf16[1024,1024]{1,0} all-gather(%p), channel_id=1, replica_groups=[32,8]<=[256], dimensions={0}
}

ENTRY %main (a: bf16[128,1024]) -> bf16[1024,1024] {
  %a = bf16[128,1024]{1,0} parameter(0)
  ROOT %async-collective-start = bf16[1024,1024]{1,0} fusion(%a), kind=kCustom, calls=%inner
}
"""


def found(text):
    return {w.name: (w.trips, w.bytes, w.is_async) for w in hlo_cost.read(text) if w.kind == "collective"}


def test_a_chain_of_fusions_is_one_transfer_that_can_hide():
    assert found(PROGRAM) == {
        "gather.1": (3, 2 * 1024 * 1024 * 7 // 8, True),
        "reduce.1": (3, 2 * 1024 * 3072 * 7 // 8, False),  # each chip keeps its part: half of an all-reduce
        "gather.4": (3, 2 * 1024 * 3072 * 7 // 8, False),
        "r": (1, 2 * 64 * 255 // 256, False),  # without groups: all devices
    }


def test_the_product_that_carries_a_transfer_counts_too():
    (product,) = [work for work in hlo_cost.read(PROGRAM) if work.kind == "matmul"]
    assert (product.name, product.trips, product.cycles) == ("fusion.9", 3, 100)


def test_a_fusion_is_known_by_its_name_too():
    assert found(BY_NAME) == {"gather": (1, 2 * 1024 * 1024 * 7 // 8, True)}


@pytest.mark.parametrize(
    ("groups", "chips"),
    [
        ("mesh['axis_0'=8,'axis_1'=32] {'axis_0'}", 8),
        ("mesh['axis_0'=1,'axis_1'=8,'axis_2'=4], device_ids=([4,8]T(1,0)) {'axis_2'}", 4),
        ("mesh['axis_0'=2,'axis_1'=8,'axis_2'=4] {'axis_0','axis_2'}", 8),
        ("mesh['axis_0'=8,'axis_1'=4] {'axis_0':(2)4}", 4),  # a part of an axis
        ("[32,8]<=[256]", 8),
        ("[2,4]<=[4,2]T(1,0)", 4),
        ("{{0,1},{2,3}}", 2),
        ("{{0},{1,2,3}}", 3),
        ("{}", 256),
    ],
)
def test_all_forms_of_groups(groups, chips):
    line = f"%g = f32[{1024 * chips}]{{0}} all-gather(%p), channel_id=1, replica_groups={groups}, dimensions={{0}}"
    text = f"HloModule m, num_partitions=256\n\nENTRY %main (p: f32[1]) -> f32[1] {{\n  {line}\n}}\n"
    assert found(text) == {"g": (1, 4096 * (chips - 1), False)}


@pytest.mark.parametrize(
    "rest",
    [
        "all-gather(%p), replica_groups=ring['axis_0'=8] {'axis_0'}",
        "all-gather(%p), replica_groups=mesh['axis_0'=8] {'axis_1'}",
        "all-gather(%p), replica_groups=mesh['axis_0'=8] {axis_0}",
        "all-gather(%p), replica_groups=[2,4]",
        "all-gather(%p), dimensions={0}",  # all devices, whose number is not said
        "ragged-all-to-all(%p), replica_groups={{0,1}}",
        'all-gather(%p), replica_groups={{0,1}}, frontend_attributes={chain_id="9"}',  # nothing starts it
    ],
)
def test_an_unknown_form_is_an_error_with_its_line(rest):
    text = f"HloModule m\n\nENTRY %main (p: f32[1]) -> f32[1] {{\n  ROOT %g = f32[8]{{0}} {rest}\n}}\n"
    with pytest.raises(collectives.UnknownCollectiveError) as error:
        hlo_cost.read(text)
    assert f"%g = f32[8]{{0}} {rest}" in str(error.value)


def test_the_header_says_how_many_devices():
    assert hlo_text.parse("HloModule m, replica_count=2, num_partitions=4\n").num_devices == 8
    assert hlo_text.parse("HloModule m\n").num_devices is None
