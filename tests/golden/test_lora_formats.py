"""Adapters in every layout: what is exported here, PEFT, diffusers and a reader of kohya's names compute the same with;
what they export is read here; and going round through them all loses nothing."""

import json
import shutil

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sd3 import contraflow, error, make_inputs, make_transformer, ours, velocity

EVERY = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff.net.0.proj",
         "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "norm1.linear", "norm1_context.linear",
         "norm_out.linear", "proj_out", "context_embedder", "linear_1", "linear_2"]  # fmt: skip
RANKS = {"attn.to_q": 6, r"transformer_blocks\.1\.attn\.to_k": 2, "proj_out": 1}
ALPHAS = {"attn.to_k": 3.5, "norm_out.linear": 12}
DIFFUSERS = "pytorch_lora_weights.safetensors"


@pytest.fixture
def base(folder):
    model = make_transformer(num_layers=3, dual_attention_layers=(0, 1), qk_norm="rms_norm", patch_size=2)
    model.save_pretrained(folder / "transformer")
    return model


def peft_adapter(folder, targets=EVERY, name="peft", **changes):
    """An adapter made by PEFT on a copy of the base, random in A and B; the model with it and its folder."""
    model = SD3Transformer2DModel.from_pretrained(folder / "transformer")
    model = get_peft_model(model, LoraConfig(**{**dict(r=4, lora_alpha=6, target_modules=targets), **changes}))
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_" in key:
                p.copy_(torch.randn(p.shape, generator=g) / p.shape[1] ** 0.5)
    model.save_pretrained(folder / name)
    return model.eval(), folder / name


def export(folder, source, form, out, *more):
    contraflow("export", source, "--format", form, "-o", folder / out, "--model", folder, *more)
    return folder / out


def in_diffusers(folder, file):
    pipe = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel.from_pretrained(folder / "transformer"), vae=None, text_encoder=None,
        tokenizer=None, text_encoder_2=None, tokenizer_2=None, text_encoder_3=None, tokenizer_3=None,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    return pipe.transformer.eval()


def original_zeros(model):
    """A checkpoint in the original release's names, all zero."""
    c = model.config
    D, F, t = c.caption_projection_dim, 4 * c.caption_projection_dim, {}

    def linear(name, out, inner):
        t[name + ".weight"], t[name + ".bias"] = torch.zeros(out, inner), torch.zeros(out)

    t["pos_embed"] = torch.zeros_like(model.pos_embed.pos_embed)
    t["x_embedder.proj.weight"] = torch.zeros_like(model.pos_embed.proj.weight)
    t["x_embedder.proj.bias"] = torch.zeros(D)
    linear("t_embedder.mlp.0", D, 256), linear("t_embedder.mlp.2", D, D)
    linear("y_embedder.mlp.0", D, c.pooled_projection_dim), linear("y_embedder.mlp.2", D, D)
    linear("context_embedder", D, c.joint_attention_dim)
    for i in range(c.num_layers):
        last, dual = i == c.num_layers - 1, i in c.dual_attention_layers
        for stream, small in ("x", False), ("context", last):
            at = f"joint_blocks.{i}.{stream}_block"
            linear(at + ".adaLN_modulation.1", (2 if small else 9 if dual and stream == "x" else 6) * D, D)
            for attn in ["attn", "attn2"] if dual and stream == "x" else ["attn"]:
                linear(f"{at}.{attn}.qkv", 3 * D, D)
                for norm in "ln_q", "ln_k":
                    t[f"{at}.{attn}.{norm}.weight"] = torch.zeros(c.attention_head_dim)
                if not small:
                    linear(f"{at}.{attn}.proj", D, D)
            if not small:
                linear(at + ".mlp.fc1", F, D), linear(at + ".mlp.fc2", D, F)
    linear("final_layer.linear", c.patch_size**2 * c.out_channels, D)
    linear("final_layer.adaLN_modulation.1", 2 * D, D)
    return t


def with_kohya(folder, tensors):
    """The base with a kohya adapter in its weights, read by sd-scripts' rules over diffusers' own converter."""
    model = SD3Transformer2DModel.from_pretrained(folder / "transformer")
    change, used = original_zeros(model), set()
    for key in list(change):
        name = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
        if key.endswith(".weight") and name + ".lora_down.weight" in tensors:
            down, up = tensors[name + ".lora_down.weight"].float(), tensors[name + ".lora_up.weight"].float()
            change[key] += tensors[name + ".alpha"].item() / down.shape[0] * up @ down
            used |= {name + x for x in (".lora_down.weight", ".lora_up.weight", ".alpha")}
    assert used == tensors.keys()
    change = convert_sd3_transformer_checkpoint_to_diffusers(change)
    state = model.state_dict()
    for key, delta in change.items():
        state[key] += delta.reshape(state[key].shape)
    model.load_state_dict(state)
    return model.eval()


def agrees(folder, adapter, model, base=None):
    """Our velocities with the adapter against the model's."""
    inputs = make_inputs(model)
    v = velocity(model, inputs)
    if base is not None:
        assert error(v, velocity(base, inputs)) > 0.1
    out = ours(folder, inputs, adapter=adapter)
    assert max(error(out[key], v) for key in ("v", "v_merged", "v_merged_grad")) <= 1e-5


def same(a, b):
    """Two PEFT folders with the same pairs, ranks and alphas."""
    x, y = load_file(a / "adapter_model.safetensors"), load_file(b / "adapter_model.safetensors")
    assert x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)
    sizes = []
    for path in a, b:
        c = LoraConfig.from_pretrained(path)
        sizes.append((c.r, c.lora_alpha, c.rank_pattern, c.alpha_pattern))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("sizes", [{}, dict(rank_pattern=RANKS, alpha_pattern=ALPHAS), dict(use_rslora=True)])
def test_peft_in_and_out(folder, base, sizes):
    model, adapter = peft_adapter(folder, **sizes)
    agrees(folder, adapter, model, base)
    again = export(folder, adapter, "peft", "again")
    fresh = SD3Transformer2DModel.from_pretrained(folder / "transformer")
    theirs = PeftModel.from_pretrained(fresh, again).eval()
    inputs = make_inputs(model)
    assert error(velocity(theirs, inputs), velocity(model, inputs)) <= 1e-6


@pytest.mark.parametrize("sizes", [{}, dict(rank_pattern=RANKS, alpha_pattern=ALPHAS)])
def test_diffusers_reads_ours(folder, base, sizes):
    model, adapter = peft_adapter(folder, **sizes)
    file = export(folder, adapter, "diffusers", DIFFUSERS)
    theirs, inputs = in_diffusers(folder, file), make_inputs(model)
    assert error(velocity(theirs, inputs), velocity(model, inputs)) <= 1e-5
    agrees(folder, file, model, base)


@pytest.mark.parametrize("sizes", [dict(rank_pattern=RANKS, alpha_pattern=ALPHAS), dict(r=4, lora_alpha=8)])
def test_diffusers_files_need_no_metadata(folder, base, sizes):
    """Readers that know nothing of lora_adapter_metadata (diffusers until 0.33, ComfyUI) take alpha for the rank."""
    model, adapter = peft_adapter(folder, **sizes)
    file = export(folder, adapter, "diffusers", DIFFUSERS)
    inputs = make_inputs(model)
    with safe_open(file, "pt") as f:
        meta = json.loads(f.metadata()["lora_adapter_metadata"])
    assert meta["transformer.lora_alpha"] == meta["transformer.r"]
    assert meta["transformer.alpha_pattern"] == meta["transformer.rank_pattern"]
    tensors = load_file(file)
    a, b = load_file(adapter / "adapter_model.safetensors"), "transformer_blocks.0.attn.to_v.lora_B.weight"
    if not sizes.get("rank_pattern"):
        assert torch.equal(tensors["transformer." + b], 2 * a["base_model.model." + b])
    save_file(tensors, file)
    assert error(velocity(in_diffusers(folder, file), inputs), velocity(model, inputs)) <= 1e-5
    again = export(folder, file, "peft", "again")
    fresh = SD3Transformer2DModel.from_pretrained(folder / "transformer")
    assert error(velocity(PeftModel.from_pretrained(fresh, again).eval(), inputs), velocity(model, inputs)) <= 1e-5


def test_names_of_other_savers(folder, base):
    """The same pairs under the names and with the metadata that other programs give them."""
    sizes = dict(rank_pattern=RANKS, alpha_pattern=ALPHAS)
    model, adapter = peft_adapter(folder, **sizes)
    inputs = make_inputs(model)
    v = velocity(model, inputs)
    saved = load_file(adapter / "adapter_model.safetensors")
    pairs = {k.removeprefix("base_model.model."): x for k, x in saved.items()}
    config = json.loads((adapter / "adapter_config.json").read_text())
    behind = {f"transformer.{k}": x for k, x in config.items()}

    def check(name, tensors, meta, want=v):
        meta = {"format": "pt", **({"lora_adapter_metadata": json.dumps(meta)} if meta is not None else {})}
        save_file(tensors, folder / name, metadata=meta)
        assert error(ours(folder, inputs, adapter=folder / name)["v"], want) <= 1e-5, name

    own = SD3Transformer2DModel.from_pretrained(folder / "transformer")
    own.add_adapter(LoraConfig(**{**dict(r=4, lora_alpha=6, target_modules=EVERY), **sizes}))
    own.load_state_dict({k.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."): x
                         for k, x in pairs.items()}, strict=False)  # fmt: skip
    own.save_lora_adapter(folder / "own")
    assert error(velocity(own.eval(), inputs), v) <= 1e-6
    assert error(ours(folder, inputs, adapter=folder / "own")["v"], v) <= 1e-5

    check("prefix.safetensors", {"transformer." + k: x for k, x in pairs.items()}, config)
    check("peft.safetensors", {"transformer.base_model.model." + k: x for k, x in pairs.items()}, behind)
    check("comfy.safetensors", {"diffusion_model." + k: x for k, x in pairs.items()}, config)
    for name in "default", "default_0":
        named = {k.replace("_A.", f"_A.{name}.").replace("_B.", f"_B.{name}."): x for k, x in pairs.items()}
        check(name + ".safetensors", {"transformer." + k: x for k, x in named.items()}, behind)

    # LyCORIS: module names with underscores, alphas as tensors
    from peft.tuners.lora import LoraLayer

    lycoris = {}
    for name, layer in model.base_model.model.named_modules():
        if isinstance(layer, LoraLayer):
            at = "lycoris_" + name.replace(".", "_")
            lycoris[at + ".lora_down.weight"] = layer.lora_A["default"].weight.detach()
            lycoris[at + ".lora_up.weight"] = layer.lora_B["default"].weight.detach()
            lycoris[at + ".alpha"] = torch.tensor(layer.scaling["default"] * layer.r["default"])
    check("lycoris.safetensors", lycoris, None)

    # metadata about another part alone say nothing of this one: alpha is the rank
    plain, _ = peft_adapter(folder, name="plain", **{**sizes, "lora_alpha": 4, "alpha_pattern": RANKS})
    check("other.safetensors", {"transformer." + k: x for k, x in pairs.items()},
          {"text_encoder.r": 4, "text_encoder.lora_alpha": 8}, velocity(plain, inputs))  # fmt: skip


@pytest.mark.parametrize("sizes", [{}, dict(rank_pattern=RANKS, alpha_pattern=ALPHAS), dict(alpha_pattern={"attn.to_q": 0})])
def test_kohya_readers_read_ours(folder, base, sizes):
    model, adapter = peft_adapter(folder, **sizes)
    file = export(folder, adapter, "kohya", "kohya.safetensors")
    inputs = make_inputs(model)
    assert error(velocity(with_kohya(folder, load_file(file)), inputs), velocity(model, inputs)) <= 1e-5
    agrees(folder, file, model, base)
    with safe_open(file, "pt") as f:
        assert f.metadata()["ss_network_dim"] == "4" and f.metadata()["ss_network_module"] == "networks.lora_sd3"


@pytest.mark.parametrize("targets", [EVERY, ["attn.to_q", "attn.to_v", "add_k_proj"], ["norm_out.linear", "proj_out"]])
def test_round_trips_lose_nothing(folder, base, targets):
    _, adapter = peft_adapter(folder, targets, rank_pattern={"to_v": 3}, alpha_pattern={"to_v": 4.5, "proj_out": 7})
    step = export(folder, adapter, "peft", "first")
    step = export(folder, step, "kohya", "second.safetensors")
    step = export(folder, step, "kohya", "third.safetensors")
    same(export(folder, adapter, "peft", "a"), export(folder, step, "peft", "b"))


@pytest.mark.parametrize("still", [["to_q", "to_k", "to_v"], ["to_k"], ["to_q", "to_v"]])
def test_a_pair_that_is_still_zero(folder, base, still):
    """B starts at zero, and stays there where no gradient comes: those pairs go round too."""
    _, adapter = peft_adapter(folder, ["attn.to_q", "attn.to_k", "attn.to_v"])
    t = load_file(adapter / "adapter_model.safetensors")
    for key in t:
        if ".lora_B." in key and any(s in key for s in still):
            t[key].zero_()
    save_file(t, adapter / "adapter_model.safetensors")
    step = export(folder, adapter, "kohya", "kohya.safetensors")
    same(export(folder, adapter, "peft", "a"), export(folder, step, "peft", "b"))


@pytest.mark.parametrize("form", ["metadata", "bare", "alpha"])
def test_diffusers_files(folder, base, form):
    """As diffusers saves them now, as it did before it kept the configuration, and with alphas as tensors."""
    sizes = dict(lora_alpha=4) if form == "bare" else dict(rank_pattern=RANKS) if form == "metadata" else {}
    model, _ = peft_adapter(folder, **sizes)
    layers = get_peft_model_state_dict(model)
    layers = {k.removeprefix("base_model.model."): v for k, v in layers.items()}
    meta = {"transformer_lora_adapter_metadata": model.peft_config["default"].to_dict()} if form == "metadata" else {}
    StableDiffusion3Pipeline.save_lora_weights(folder / "saved", transformer_lora_layers=layers, **meta)
    if form == "alpha":
        t = load_file(folder / "saved" / DIFFUSERS)
        for key in [k for k in t if ".lora_A." in k]:
            t[key.replace(".lora_A.weight", ".alpha")] = torch.tensor(6.0)
        save_file(t, folder / "saved" / DIFFUSERS)
    agrees(folder, folder / "saved", model, base)
    agrees(folder, folder / "saved" / DIFFUSERS, model)


@pytest.mark.parametrize("form", ["fused", "dotted", "plain names"])
def test_kohya_files(folder, base, form):
    """Random pairs on every module of the original release, whose qkv share their A; the same with dots, as some
    trainers of ComfyUI write them; and diffusers' names with underscores."""
    t, g = {}, torch.Generator().manual_seed(9)
    if form == "plain names":
        model, adapter = peft_adapter(folder)
        for key, v in load_file(adapter / "adapter_model.safetensors").items():
            key = key.removeprefix("base_model.model.")
            module, half = (key.split(".lora_A")[0], "down") if "lora_A" in key else (key.split(".lora_B")[0], "up")
            name = "lora_transformer_" + module.replace(".", "_")
            t[f"{name}.lora_{half}.weight"], t[name + ".alpha"] = v, torch.tensor(6.0)
    else:
        for key, w in original_zeros(base).items():
            if w.dim() != 2 or "x_embedder" in key:
                continue
            name = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
            rank = 2 + len(t) % 5
            t[name + ".lora_down.weight"] = torch.randn(rank, w.shape[1], generator=g).half() / w.shape[1] ** 0.5
            t[name + ".lora_up.weight"] = torch.randn(w.shape[0], rank, generator=g).half()
            t[name + ".alpha"] = torch.tensor(1.5, dtype=torch.float16)
        model = with_kohya(folder, t)
    if form == "dotted":
        names = {"lora_unet_" + k.removesuffix(".weight").replace(".", "_"): k for k in original_zeros(base)}
        dotted = {}
        for key, v in t.items():
            name, end = key.split(".", 1)
            end = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}.get(end, end)
            dotted[f"diffusion_model.{names[name].removesuffix('.weight')}.{end}"] = v
        t = dotted
    save_file(t, folder / "adapter.safetensors")
    agrees(folder, folder / "adapter.safetensors", model, base)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged(folder, base, dtype):
    if dtype == "bfloat16":
        base.to(torch.bfloat16).save_pretrained(folder / "transformer")
    model, adapter = peft_adapter(folder, rank_pattern=RANKS)
    assert model.dtype == torch.float32
    out = export(folder, adapter, "merged", "merged")
    assert {v.dtype for v in load_file(out / "diffusion_pytorch_model.safetensors").values()} == {getattr(torch, dtype)}
    theirs = SD3Transformer2DModel.from_pretrained(out, torch_dtype=getattr(torch, dtype)).eval()
    inputs = make_inputs(model)
    if dtype == "float32":
        assert error(velocity(theirs, inputs), velocity(model, inputs)) <= 1e-5
    for exact, merged in zip(model.merge_and_unload().parameters(), theirs.parameters()):
        assert error(merged.float(), exact) <= (1e-6 if dtype == "float32" else 2**-9)
    assert sorted(p.name for p in folder.iterdir()) == ["merged", "peft", "transformer"]


def test_inspect(folder, base):
    _, adapter = peft_adapter(folder, ["attn.to_q", "attn.to_v", "proj_out"], alpha_pattern={"proj_out": 8})
    a = load_file(adapter / "adapter_model.safetensors")
    total = 0
    for key in (k for k in a if ".lora_A." in k):
        ba = a[key.replace(".lora_A.", ".lora_B.")].double() @ a[key].double()
        total += ((8 if "proj_out" in key else 6) / 4 * ba).square().sum().item()
    shutil.copytree(adapter, folder / "checkpoint-10" / "lora")  # as the reference has it
    assert "a LoRA adapter in PEFT's layout" in contraflow("inspect", folder / "checkpoint-10")
    files = [adapter, export(folder, adapter, "diffusers", "d.safetensors"),
             export(folder, adapter, "kohya", "k.safetensors")]  # fmt: skip
    for file, layout in zip(files, ["PEFT", "diffusers", "kohya"]):
        text = contraflow("inspect", file)
        assert f"a LoRA adapter in {layout}'s layout" in text
        norm = float(text.split("norm of the change of the weights ")[1].split()[0])
        assert abs(norm / total**0.5 - 1) < 1e-5
        if layout != "kohya":
            assert ("alphas 6 to 8" if layout == "PEFT" else "alpha 4") + ", 7 modules" in text
            assert "rank" in text and "proj_out" in text
            assert " transformer_blocks.*.attn.to_q" in text


def test_inspect_what_is_refused(folder):
    """A file that cannot be used as an adapter is listed all the same, with why."""
    save_file({"lora_unet_proj_out.lora_up.weight": torch.ones(16, 4), "lora_te1_x.lora_up.weight": torch.ones(2, 4)}, folder / "x.safetensors")
    text = contraflow("inspect", folder / "x.safetensors")
    assert "2 tensors, 72 elements" in text and "[16, 4] lora_unet_proj_out" in text
    assert "no adapter that can be used" in text and "changes a text encoder" in text


REFUSED = {
    "text encoder": ({"text_encoder.text_model.x.lora_A.weight": (4, 16)}, "changes a text encoder"),
    "DoRA": ({"transformer.proj_out.lora_magnitude_vector": (16,)}, "belongs to DoRA"),
    "LoKr": ({"lora_unet_final_layer_linear.lokr_w1": (4, 4)}, "belongs to LoKr, and only plain LoRA"),
    "LoKr of LyCORIS": ({"lycoris_proj_out.lokr_w2_a": (4, 4)}, "belongs to LoKr"),
    "LoHa": ({"lycoris_proj_out.hada_w1_a": (4, 4)}, "belongs to LoHa"),
    "OFT": ({"lora_unet_final_layer_linear.oft_blocks": (2, 4, 4)}, "belongs to OFT"),
    "DoRA of ai-toolkit": ({"transformer.proj_out.magnitude": (16,)}, "belongs to DoRA"),
    "no configuration": ({"base_model.model.proj_out.lora_A.weight": (4, 16)}, "named as PEFT does"),
    "another program's": ({"proj_out.weight": (4, 16)}, "is no tensor of a LoRA pair"),
    "no such module": ({"lora_unet_input_blocks_1.lora_up.weight": (4, 4)}, "matches no linear module"),
    "twice": (
        {"lora_unet_proj_out.lora_down.weight": (4, 16), "lora_unet_proj_out.lora_up.weight": (16, 4),
         "lora_unet_final_layer_linear.lora_down.weight": (4, 16), "lora_unet_final_layer_linear.lora_up.weight": (16, 4)},
        "are both for proj_out"),
    "mixed": ({"lora_unet_proj_out.lora_up.weight": (16, 4), "transformer.proj_out.lora_A.weight": (4, 16)}, "is named as"),
    "a lost half": ({"transformer.proj_out.lora_A.weight": (4, 16)}, "'transformer.proj_out.lora_B.weight' is missing"),
    "other rank": (
        {"transformer.proj_out.lora_A.weight": (4, 16), "transformer.proj_out.lora_B.weight": (16, 3)}, "has rank 3 for proj_out"),
    "no rank": (
        {"transformer.proj_out.lora_A.weight": (0, 16), "transformer.proj_out.lora_B.weight": (16, 0)}, "is empty"),
    "alpha": ({"transformer.proj_out.alpha": (2,)}, "is not a single number"),
    "alpha alone": ({"transformer.proj_out.alpha": ()}, "has an alpha but no weights"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_files(folder, base, name):
    shapes, message = REFUSED[name]
    save_file({k: torch.ones(s) for k, s in shapes.items()}, folder / "bad.safetensors")
    with pytest.raises(RuntimeError) as e:
        export(folder, folder / "bad.safetensors", "peft", "out")
    assert message in str(e.value) and str(e.value).count("\n") == 1 and not (folder / "out").exists()


def test_refused_patterns(folder, base):
    _, adapter = peft_adapter(folder, ["proj_out"])
    config = json.loads((adapter / "adapter_config.json").read_text())
    for change, message in [
        (dict(rank_pattern={"proj_out": 2}), "has rank 4 for proj_out"),
        (dict(rank_pattern={"proj_out": 0}), "rank_pattern: the rank of proj_out is 0"),
        (dict(alpha_pattern={"proj_out": "8"}), "the value of 'proj_out' is not a number"),
        (dict(alpha_pattern={"(": 8}), "'(' is not a regular expression"),
        (dict(alpha_pattern=[8]), "alpha_pattern is not an object"),
    ]:
        (adapter / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(RuntimeError) as e:
            export(folder, adapter, "peft", "out")
        assert message in str(e.value)


def test_export_mistakes(folder, base):
    _, adapter = peft_adapter(folder, ["proj_out"])
    for args, message in [
        ([adapter, "--format", "peft", "-o", adapter, "--model", folder], "exists already"),
        ([adapter, "--format", "merged", "-o", adapter, "--model", folder], "exists already"),
        ([adapter, "--format", "safetensors", "-o", folder / "x", "--model", folder], "--format 'safetensors'"),
        ([adapter, "--format", "peft", "-o", folder / "x"], "does not belong to a run: give --model DIR"),
        ([folder / "none", "--format", "peft", "-o", folder / "x", "--model", folder], "no such file or folder"),
        ([folder, "--format", "peft", "-o", folder / "x", "--model", folder], "not an adapter: give"),
        ([adapter, "--format", "peft", "-o", folder / "x", "--model", folder / "none"], "config.json"),
        ([adapter, "--format", "peft", "-o", folder / "x", "--model", folder, "--dtype", "int3"], "int3"),
        (["--format", "peft"], "usage: contraflow export"),
    ]:
        with pytest.raises(RuntimeError) as e:
            contraflow("export", *args)
        assert message in str(e.value) and str(e.value).count("\n") == 1 and not (folder / "x").exists()
