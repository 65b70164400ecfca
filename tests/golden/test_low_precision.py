"""What bfloat16 leaves of a small adapter, on a tiny SD3.5: docs/performance.md has these numbers.

The exact change of the velocity is float32's, of the same weights and adapter.  The gain, <change, exact> over <exact, exact>,
is the share of it that survives; the cosine has the noise of bfloat16's activations in it, which is new for every image."""

import pytest
import torch
from sd3 import add_adapter, make_inputs, make_transformer, ours
from test_mmdit import ATTENTION

SIZES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """By the size of the adapter's change, its RMS over the weights': {key: (gain, cosine)} and the velocities."""
    folder = tmp_path_factory.mktemp("model")
    model = make_transformer(num_layers=3, num_attention_heads=4, attention_head_dim=32, patch_size=2, dual_attention_layers=(0, 1), qk_norm="rms_norm")
    model = model.to(torch.bfloat16).float()
    model.save_pretrained(folder / "transformer")
    inputs = make_inputs(model, batch=96, height=16, width=16, tokens=12)
    del inputs["g"]  # no gradients are wanted
    inputs = {k: v if k == "t" else v.to(torch.bfloat16).float() for k, v in inputs.items()}
    base = {dtype: ours(folder, inputs, dtype)["v"].double() for dtype in ("float32", "bfloat16")}
    with_pairs, out = add_adapter(model, 32, 32, ATTENTION), {}
    layers = [m for m in with_pairs.modules() if hasattr(m, "lora_B")]
    for size in SIZES:
        for m in layers:
            a, b = m.lora_A["default"].weight, m.lora_B["default"].weight
            with torch.no_grad():
                b *= size * m.base_layer.weight.square().mean().sqrt() / (b @ a).square().mean().sqrt()
        with_pairs.save_pretrained(folder / "adapter")
        exact = (ours(folder, inputs, "float32", folder / "adapter")["v"].double() - base["float32"]).flatten()
        v = ours(folder, inputs, "bfloat16", folder / "adapter")
        changes = {k: (v[k].double() - base["bfloat16"]).flatten() for k in ("v", "v_merged", "v_beside")}
        out[size] = {k: (float(c @ exact / (exact @ exact)), float(c @ exact / c.norm() / exact.norm())) for k, c in changes.items()}
        apart = {k: float((v["v"] - v[k]).double().norm() / v["v"].double().norm()) for k in changes}
        print(size, float(exact.norm() / base["float32"].norm()), out[size], "v - v_old over v:", apart)
        out[size]["velocities"] = v
    return out


def test_small_changes_survive(measured):
    """Half of a thousandth is lost in merged weights, nothing beside them."""
    assert measured[1e-2]["v_merged"][0] == pytest.approx(1, abs=0.05) and measured[1e-2]["v_beside"][0] == pytest.approx(1, abs=0.05)
    assert measured[1e-3]["v_merged"][0] < 0.75 and measured[1e-3]["v_beside"][0] == pytest.approx(1, abs=0.15)
    assert measured[3e-4]["v_merged"][0] < 0.45 and measured[3e-4]["v_beside"][0] == pytest.approx(1, abs=0.45)
    for size in SIZES[2:]:
        assert measured[size]["v_beside"][1] > measured[size]["v_merged"][1]


def test_equal_policies_agree(measured):
    """theta with gradients and the old policy without: the same bits, so that old_deviation is zero; merged it is not."""
    for size in SIZES:
        v = measured[size]["velocities"]
        assert torch.equal(v["v"], v["v_beside"]) and not torch.equal(v["v"], v["v_merged"])
