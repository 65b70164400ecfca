"""The tokenizers against transformers': identical ids on 10,000 strings each."""

import base64
import html.entities
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import unicodedata
import zipfile

import ftfy
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from sd3 import ROOT, contraflow
from vocabularies import BERT_WORDS, GEMMA_WORDS, QWEN_WORDS, WORDS, bert_folder, byte_names, clip_folder, corpus, gemma_folder, qwen_folder, t5_folder
from transformers import (BertTokenizer, CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel,
                          T5Tokenizer)  # fmt: skip

N, T5_LENGTH = 10000, 512


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """The three encoders' folders; the models are as small as they can be."""
    folder = tmp_path_factory.mktemp("text")
    size = clip_folder(folder / "tokenizer")
    clip_folder(folder / "tokenizer_2", pad="!")
    t5_size = t5_folder(folder / "tokenizer_3")
    for name in ["text_encoder", "text_encoder_2"]:
        config = CLIPTextConfig(vocab_size=size, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1,
                                projection_dim=4, eos_token_id=size - 1)  # fmt: skip
        CLIPTextModelWithProjection(config).save_pretrained(folder / name)
    config = T5Config(vocab_size=t5_size, d_model=8, d_kv=4, d_ff=4, num_layers=1, num_heads=1, feed_forward_proj="gated-gelu")
    T5EncoderModel(config).save_pretrained(folder / "text_encoder_3")
    return folder


@pytest.fixture(scope="module")
def ids(pipeline):
    prompts = corpus(N)
    save_file({"unused": torch.zeros(1)}, pipeline / "in.safetensors", {"prompts": json.dumps(prompts)})
    contraflow("probe", "tokenize", "--model", pipeline, "--in", pipeline / "in.safetensors", "--out",
               pipeline / "out.safetensors", "--text-length", T5_LENGTH)  # fmt: skip
    return prompts, load_file(pipeline / "out.safetensors")


def differences(prompts, ours, theirs):
    rows = (ours != theirs).any(1).nonzero().flatten().tolist()
    return [(prompts[i][:60], ours[i][:20].tolist(), theirs[i][:20].tolist()) for i in rows[:3]] if rows else []


@pytest.mark.parametrize("folder, name", [("tokenizer", "input_ids"), ("tokenizer_2", "input_ids_2")])
def test_clip(pipeline, ids, folder, name):
    prompts, ours = ids
    theirs = CLIPTokenizer.from_pretrained(pipeline / folder)(
        prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    assert ours[name].shape == (N, 77)
    assert not differences(prompts, ours[name], theirs)


def test_t5(pipeline, ids):
    prompts, ours = ids
    theirs = T5Tokenizer.from_pretrained(pipeline / "tokenizer_3")(
        prompts, padding="max_length", max_length=T5_LENGTH, truncation=True, add_special_tokens=True, return_tensors="pt"
    ).input_ids
    assert ours["input_ids_3"].shape == (N, T5_LENGTH)
    assert not differences(prompts, ours["input_ids_3"], theirs)


def test_t5_json(pipeline, ids, tmp_path):
    """What transformers 5 saves: tokenizer.json alone.  The same ids; what it cannot read is named."""
    prompts, ours = ids
    for name in "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "text_encoder_3":
        (tmp_path / name).symlink_to(pipeline / name)
    T5Tokenizer.from_pretrained(pipeline / "tokenizer_3").save_pretrained(tmp_path / "tokenizer_3")
    assert not (tmp_path / "tokenizer_3/spiece.model").exists()
    file = tmp_path / "tokenizer_3/tokenizer.json"
    run = ("probe", "tokenize", "--model", tmp_path, "--in", pipeline / "in.safetensors", "--out", tmp_path / "out.safetensors",
           "--text-length", T5_LENGTH)  # fmt: skip
    contraflow(*run)
    assert not differences(prompts, load_file(tmp_path / "out.safetensors")["input_ids_3"], ours["input_ids_3"])
    good = json.loads(file.read_text())
    for change, message in [
        (lambda j: j["model"].update(byte_fallback=True), "unigram pieces without bytes"),
        (lambda j: j.update(normalizer={"type": "NFKC"}), "normalizer is not Precompiled"),
        (lambda j: j["normalizer"].update(precompiled_charsmap="?"), "not base64"),
        (lambda j: j["pre_tokenizer"]["pretokenizers"].pop(0), "pre_tokenizer is not WhitespaceSplit and Metaspace"),
        (lambda j: j["model"]["vocab"].pop(), "T5 has 100 sentinels"),
        (lambda j: j["model"]["vocab"].insert(7, ["x"]), "entry 7 of the vocabulary"),
        (lambda j: j["model"]["vocab"].insert(8, j["model"]["vocab"][9]), "two of its pieces are equal"),
    ]:  # fmt: skip
        bad = json.loads(json.dumps(good))
        change(bad)
        file.write_text(json.dumps(bad))
        with pytest.raises(RuntimeError, match=message):
            contraflow(*run)


# ---- CLIP as open_clip has it ------------------------------------------------------------------------


def cleaned(text):
    """What ftfy makes of it, or None where its repair of mojibake has a part in that."""
    plain = ftfy.fix_text(text, fix_encoding=False)
    return plain if plain == ftfy.fix_text(text) else None


def test_open_clip(tmp_path):
    """HPSv2 and GenEval's colours were made with open_clip's tokenizer: curly quotes, entities, widths, ligatures."""
    r, extra = random.Random(7), []
    names = [*html.entities.html5, *(k[1:] for k in ftfy.chardata.HTML_ENTITIES)]
    for at in range(0, len(names), 12):
        extra.append(" x".join(f"&{n}" for n in names[at : at + 12]))
    pieces = ["&amp;", "&amp;lt;", "&#x27;", "&#39", "&#0;", "&#128;", "&#xD800;", "&#99999999;", "&#11;", "&EACUTE;", "&notit;", "&copycat", "&ampamp;", "&;", "&#;", "&#x;",
              "<b>", "\n", "\r\n", "’", "‘s", "“x”", "ＡＢ！", "ｶﾞ", "ﬁ", "ﬄ", "ǅ", "ŉ", "\x07", "\ufeff", "\x1b[31m", "\x1b[;", "\u3000", "\u2028", "ΟΔΟΣ", "Σ", "ΑΣ.Α", "İI",
              "é", "e\u0301", "&#769;", "it's", "IT'S", "'ſ", "<start_of_text>", "<END_OF_TEXT>", "<|endoftext|>", "日本", "½", "३", " ", "  ", "a", "Dog", "…"]  # fmt: skip
    extra += ["".join(r.choice(pieces) for _ in range(r.randint(1, 9))) for _ in range(4000)]
    published = ["An astronaut’s helmet &amp; a “neon” sign", "fish&chips, rock &amp;amp; roll", "  A dog\u00a0 \n and a CAT  "]
    prompts = [t for t in published + extra + corpus(3000) if cleaned(t) is not None and "\0" not in t]
    assert len(prompts) > 6000
    clip_folder(tmp_path / "t")
    ours = torch.tensor(tokenize(tmp_path / "t", prompts, 77, "open_clip"))
    theirs = open_clip.tokenizer.SimpleTokenizer()(prompts)
    behind = (theirs == 49407).cumsum(1) > (theirs == 49407)  # the first end: padding, which is another there
    assert not differences(prompts, ours.masked_fill(behind, 0), theirs.masked_fill(behind, 0))
    changed = [ftfy.fix_text(p) != p for p in prompts]
    assert sum(changed) > 2000


# ---- BERT, and whichever a folder holds --------------------------------------------------------------


def tokenize(folder, prompts, length, *how):
    build = pathlib.Path(os.environ.get("BUILD", "build"))
    program = (build if build.is_absolute() else ROOT / build) / "tests/golden_tokenizer"
    (folder / "prompts.json").write_text(json.dumps(prompts))
    done = subprocess.run([program, folder, str(length), folder / "prompts.json", *how], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return torch.tensor([json.loads(line) for line in done.stdout.splitlines()])


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert") / "tokenizer"
    return folder, bert_folder(folder)


def as_vocab(folder, to, **config):
    """The folder as transformers 4 wrote it: vocab.txt, and the added tokens in tokenizer_config.json."""
    whole = json.loads((folder / "tokenizer.json").read_text())
    to.mkdir(parents=True)
    (to / "vocab.txt").write_text("".join(t + "\n" for t in whole["model"]["vocab"]), encoding="utf-8")
    added = {str(t.pop("id")): t for t in whole["added_tokens"]}
    names = dict(bos_token="[DEC]", additional_special_tokens=["[ENC]"], tokenizer_class="BertTokenizer")
    (to / "tokenizer_config.json").write_text(json.dumps(dict(added_tokens_decoder=added, **names, **config)))
    return to


@pytest.mark.parametrize("layout", ["json", "vocab"])
@pytest.mark.parametrize("options", [{}, dict(do_lower_case=False), dict(strip_accents=False), dict(do_lower_case=False, strip_accents=True),
                                     dict(tokenize_chinese_chars=False)], ids=lambda o: "_".join(o) or "uncased")  # fmt: skip
def test_bert(bert, tmp_path, layout, options):
    """Both layouts of the folder, and the options of cased models; as long as ImageReward's prompts and longer."""
    folder = tmp_path / "bert"
    if layout == "json":
        bert_folder(folder, **options)
    else:
        as_vocab(bert[0], folder, **options)
    tokenizer = BertTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids("[ENC]") == len(tokenizer) - 1
    prompts = corpus(N if not options else 1000, words=WORDS + BERT_WORDS)
    for length in (35, 512) if not options else (64,):
        theirs = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
        assert not differences(prompts, tokenize(folder, prompts, length), theirs)
        assert (theirs == tokenizer.unk_token_id).float().mean() < 0.05


def by_category(c):
    """What BERT does with a character, by Python's table: keeps, drops, blank or apart."""
    category = unicodedata.category(c)
    if c in "\t\n\r" or category in ("Zs", "Zl", "Zp"):
        return "blank"
    if c == "\ufffd" or category in ("Cc", "Cf", "Co"):
        return "drops"
    marks = [x for x in unicodedata.normalize("NFD", c) if unicodedata.category(x) != "Mn"]
    if not marks:
        return "drops"
    return "apart" if category[0] == "P" or (c.isascii() and not c.isalnum()) else None


def test_bert_characters(bert):
    """Every character between two letters.  Tables of Unicode differ in age: where tokenizers' and Python's agree, so do
    we; elsewhere we are with one of them."""
    folder, tokenizer = bert
    some = [chr(c) for c in range(1, 0x110000) if unicodedata.category(chr(c)) not in ("Cs", "Cn")]
    prompts = [f"a{c}b" for c in some]
    ours = tokenize(folder, prompts, 8).tolist()
    theirs = tokenizer(prompts, padding="max_length", max_length=8, truncation=True).input_ids
    a, inner, b, unk = tokenizer.convert_tokens_to_ids(["a", "##b", "b", "[UNK]"])
    ends = {"drops": tokenizer("ab").input_ids[1:-1], "blank": [a, b]}
    new = 0
    for c, x, y in zip(some, ours, theirs):
        if x == y:
            continue
        new += 1
        want, x = by_category(c), x[1 : x.index(tokenizer.sep_token_id)]
        assert (x == ends[want]) if want in ends else (x[0] == a and x[-1] == b) == (want == "apart"), (hex(ord(c)), want, x, y)
    assert new < 700 and len(some) > 280000


@pytest.mark.parametrize("change, message", [
    (lambda f: (f / "tokenizer.json").unlink(), "cannot open"),  # tokenizer_config.json names the class
    (lambda f: (f / "tokenizer.json").write_text("{}"), "its model is missing, wanted WordPiece"),
    (lambda f: edit(f, lambda o: o["model"].update(type="WordLevel")), "its model is WordLevel, wanted WordPiece"),
    (lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")], "no tokenizer (vocab.json"),
    (lambda f: (f / "tokenizer_config.json").unlink() or (f / "tokenizer.json").write_text("{}"), "model.type is missing, wanted BPE, Unigram or WordPiece"),
    (lambda f: edit(f, lambda o: o["model"].pop("vocab")), "no model.vocab"),
    (lambda f: edit(f, lambda o: o["model"]["vocab"].pop("[SEP]")), "lacks [SEP]"),
    (lambda f: edit(f, lambda o: o["model"]["vocab"].update(a=-3)), "the id of 'a'"),
    (lambda f: edit(f, lambda o: o["model"].update(continuing_subword_prefix="@@")), "'@@'"),
    (lambda f: edit(f, lambda o: o["model"].update(max_input_chars_per_word=0)), "max_input_chars_per_word"),
    (lambda f: edit(f, lambda o: o["normalizer"].update(type="NFC")), "its normalizer is NFC"),
    (lambda f: edit(f, lambda o: o.update(pre_tokenizer=None)), "its pre_tokenizer is missing"),
    (lambda f: edit(f, lambda o: o["added_tokens"][0].update(lstrip=True)), "is `lstrip`, which is not supported"),
    (lambda f: edit(f, lambda o: o["added_tokens"][0].update(content="")), "without content"),
    (lambda f: (f / "vocab.txt").write_bytes(b"a\nb\xff\n") and (f / "tokenizer.json").unlink(), "vocab.txt:2: not UTF-8"),
    (lambda f: (f / "vocab.txt").write_bytes(b"[CLS]\n[SEP]\n[PAD]\n") and (f / "tokenizer.json").unlink(), "lacks [UNK]"),
])  # fmt: skip
def test_bert_mistakes(bert, tmp_path, change, message):
    shutil.copytree(bert[0], tmp_path / "f")
    change(tmp_path / "f")
    with pytest.raises(RuntimeError) as e:
        tokenize(tmp_path / "f", ["a"], 9)
    assert message in str(e.value) and str(e.value).count("\n") == 1, str(e.value)


def edit(folder, change):
    whole = json.loads((folder / "tokenizer.json").read_text())
    change(whole)
    (folder / "tokenizer.json").write_text(json.dumps(whole))


# ---- Qwen --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["json", "config", "added"])
def test_qwen(tmp_path, layout):
    """Every layout of the folder; prompts with added tokens, cut ones and padded ones."""
    tokenizer = qwen_folder(tmp_path / "t", layout)
    prompts = corpus(N if layout != "added" else 2000, words=WORDS + QWEN_WORDS)
    for length in (400, 7):
        some = prompts if length > 7 else prompts[:500]
        theirs = tokenizer(some, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
        assert not differences(some, tokenize(tmp_path / "t", some, length), theirs)
    assert len({*theirs.flatten().tolist()} & set(range(len(tokenizer) - 9, len(tokenizer)))) == 9


def test_qwen_composed_tokens(tmp_path):
    """Added tokens that are looked for in composed text, and those that are not: a mark behind ">" makes another character."""
    from transformers import AddedToken

    tokenizer = qwen_folder(tmp_path / "t", plain=[])
    tokenizer.add_tokens([AddedToken("<caf\u00e9>", normalized=True), AddedToken("<tea>", normalized=False), AddedToken("<tea>x", normalized=True)])
    tokenizer.save_pretrained(tmp_path / "t")
    words = ["<cafe\u0301>", "<caf\u00e9>", "<tea>", "<tea>\u0338", "<tea>x", "<caf\u00e9>\u0338", "x", " ", "<", "<|im_end|>\u0338"]
    prompts = corpus(2000, seed=4, words=words)
    theirs = tokenizer(prompts, padding="max_length", max_length=60, truncation=True, return_tensors="pt").input_ids
    assert not differences(prompts, tokenize(tmp_path / "t", prompts, 60), theirs)
    ids = set(theirs.flatten().tolist())
    assert {*tokenizer.convert_tokens_to_ids(["<caf\u00e9>", "<tea>"])} <= ids


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Qwen's own vocabulary, which the wheel of an SDK holds: its tokens by rank, and the merges that make them."""
    folder = tmp_path_factory.mktemp("dashscope")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", folder, "dashscope==2.0.2"]
    try:
        if subprocess.run(pip, capture_output=True, timeout=120).returncode:
            pytest.skip("the wheel dashscope 2.0.2 cannot be had")
    except subprocess.TimeoutExpired:
        pytest.skip("the wheel dashscope 2.0.2 cannot be had in time")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        lines = wheel.read("dashscope/resources/qwen.tiktoken").splitlines()
    rank = {base64.b64decode(token): int(i) for token, i in (line.split() for line in lines if line)}
    names, _ = byte_names()
    merges = []
    for token, i in rank.items():
        parts = [token[k : k + 1] for k in range(len(token))]
        while len(parts) > 2:  # by merges of lower rank: what is left is the pair that this token was made of
            best = min(range(len(parts) - 1), key=lambda k: r if (r := rank.get(parts[k] + parts[k + 1], i)) < i else i + k)
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            merges.append((i, *("".join(names[b] for b in part) for part in parts)))
    vocab = {"".join(names[b] for b in token): i for token, i in rank.items()}
    return vocab, [(a, b) for _, a, b in sorted(merges)]


def test_qwen_published(published, tmp_path):
    """The real vocabulary: the corpus, and the ids of the string that Qwen-Image puts around a prompt."""
    vocab, merges = published
    assert len(vocab) == 151643 and len(merges) == 151387
    tokenizer = qwen_folder(tmp_path / "t", "config", published, special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    template = ("<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of "
                "the objects and background:<|im_end|>\n<|im_start|>user\n")  # fmt: skip
    prompts = [template, *corpus(N, words=WORDS + QWEN_WORDS)]
    ours = tokenize(tmp_path / "t", prompts, 200)
    known = [151644, 8948, 198, 74785, 279, 2168, 553, 44193, 279, 1894, 11, 6083, 11, 1379, 11, 10434, 11, 12194, 11, 1467, 11, 27979, 11871,
             315, 279, 6171, 323, 4004, 25, 151645, 198, 151644, 872, 198]  # fmt: skip
    assert ours[0].tolist() == known + [151643] * (200 - len(known))
    theirs = tokenizer(prompts, padding="max_length", max_length=200, truncation=True, return_tensors="pt").input_ids
    assert not differences(prompts, ours, theirs)


@pytest.mark.parametrize("change, message", [
    (lambda f: edit(f, lambda o: o["model"]["vocab"].pop("\u0100")), "lacks the byte 0"),
    (lambda f: edit(f, lambda o: o["model"]["merges"].append(7)), "model.merges[400]"),
    (lambda f: edit(f, lambda o: o["model"].update(ignore_merges=True)), "ignore_merges"),
    (lambda f: edit(f, lambda o: o["model"].update(byte_fallback=True)), "byte_fallback"),
    (lambda f: edit(f, lambda o: o.update(normalizer={"type": "NFKC"})), "its normalizer is NFKC, Qwen's is NFC"),
    (lambda f: edit(f, lambda o: o["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="x")), "does not cut words as Qwen2's"),
    (lambda f: edit(f, lambda o: o["added_tokens"][1].update(single_word=True)), "is `single_word`, which is not supported"),
    (lambda f: edit(f, lambda o: o["added_tokens"][1].pop("id")), "needs a name and an id"),
    (lambda f: edit(f, lambda o: o["added_tokens"].append(dict(o["added_tokens"][1], id=7))), "has two ids"),
    (lambda f: change_config(f, pad_token="<pad>"), "the padding token '<pad>' is not in the vocabulary"),
    (lambda f: change_config(f, add_prefix_space=True), "add_prefix_space is not supported"),
])  # fmt: skip
def test_qwen_mistakes(tmp_path, change, message):
    qwen_folder(tmp_path / "f")
    change(tmp_path / "f")
    with pytest.raises(RuntimeError) as e:
        tokenize(tmp_path / "f", ["a"], 9)
    assert message in str(e.value) and str(e.value).count("\n") == 1, str(e.value)


# ---- Gemma -------------------------------------------------------------------------------------------


def gemma_ids(tokenizer, prompts, length):
    return tokenizer(prompts, padding="max_length", max_length=length, truncation=True, padding_side="right", return_tensors="pt").input_ids


@pytest.mark.parametrize("bos", [True, False])
def test_gemma(tmp_path, bos):
    """Prompts with added tokens, cut ones and padded ones; with the token that begins a text and without."""
    tokenizer = gemma_folder(tmp_path / "t", bos=bos)
    prompts = corpus(N if bos else 1000, words=WORDS + GEMMA_WORDS)
    for length in (400, 7):
        some = prompts if length > 7 else prompts[:500]
        theirs = gemma_ids(tokenizer, some, length)
        assert not differences(some, tokenize(tmp_path / "t", some, length), theirs)
        if length > 7 and bos:
            seen = set(theirs.flatten().tolist())
            assert {*range(5, 13)} <= seen and len(seen & {*range(13, 269)}) > 100 and len(seen) > 500  # added tokens, bytes, all


@pytest.mark.parametrize("change, message", [
    (lambda f: edit(f, lambda o: o["model"]["vocab"].pop("<0x07>")), "lacks the byte <0x07>"),
    (lambda f: edit(f, lambda o: o["model"].update(byte_fallback=False)), "byte_fallback is not true"),
    (lambda f: edit(f, lambda o: o["model"].update(ignore_merges=True)), "ignore_merges"),
    (lambda f: edit(f, lambda o: o.update(normalizer=None)), "does not replace blanks with U+2581"),
    (lambda f: edit(f, lambda o: o["pre_tokenizer"]["pattern"].update(String="x")), "cuts words otherwise than at blanks"),
    (lambda f: edit(f, lambda o: o["post_processor"]["single"].reverse()), "post_processor.single[1] is not supported"),
    (lambda f: edit(f, lambda o: o["added_tokens"].append(dict(o["added_tokens"][1], content="a b", id=7, normalized=True))), "'a b' is `normalized` and has a blank"),
    (lambda f: change_config(f, pad_token="<padding>"), "the token '<padding>' is not in the vocabulary"),
])  # fmt: skip
def test_gemma_mistakes(tmp_path, change, message):
    gemma_folder(tmp_path / "f")
    change(tmp_path / "f")
    with pytest.raises(RuntimeError) as e:
        tokenize(tmp_path / "f", ["a"], 9)
    assert message in str(e.value) and str(e.value).count("\n") == 1, str(e.value)


def change_config(folder, **changes):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("kind", ["clip", "clip_json", "t5", "bert", "bert_vocab", "qwen", "qwen_vocab", "qwen_unnamed", "gemma", "gemma_unnamed"])
def test_folder_says_which(bert, tmp_path, kind):
    """Ids of the tokenizer that a folder is of; CLIP's from tokenizer.json alone too."""
    folder = tmp_path / "x"
    if kind.startswith("bert"):
        folder = bert[0] if kind == "bert" else as_vocab(bert[0], folder)
        tokenizer = BertTokenizer.from_pretrained(folder)
    elif kind.startswith("qwen"):
        tokenizer = qwen_folder(folder, "config" if kind == "qwen_vocab" else "json")
        if kind == "qwen_unnamed":
            change_config(folder, tokenizer_class=None)
    elif kind.startswith("gemma"):
        tokenizer = gemma_folder(folder)
        tokenizer.padding_side = "right"
        if kind == "gemma_unnamed":
            change_config(folder, tokenizer_class=None)
    elif kind == "t5":
        t5_folder(folder)
        tokenizer = T5Tokenizer.from_pretrained(folder)
    else:
        clip_folder(folder, merges=300)
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        if kind == "clip_json":
            tokenizer.save_pretrained(tmp_path / "j")
            folder = tmp_path / "j"
            assert not (folder / "vocab.json").exists()
    prompts = corpus(300, seed=3)
    theirs = tokenizer(prompts, padding="max_length", max_length=40, truncation=True, return_tensors="pt").input_ids
    assert not differences(prompts, tokenize(folder, prompts, 40), theirs)
