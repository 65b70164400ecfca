"""Tokenizer folders for the tests, and a corpus that tries to break them."""

import collections
import gzip
import importlib.util
import json
import pathlib
import random

import sentencepiece

SPECIAL = ["<|startoftext|>", "<|endoftext|>"]


def byte_names():
    """CLIP's printable name of every byte."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names, other = {b: chr(b) for b in own}, 0
    for b in range(256):
        if b not in names:
            names[b] = chr(256 + other)
            other += 1
    return names, own + [b for b in range(256) if b not in own]


def clip_folder(folder, pad="<|endoftext|>", merges=None):
    """vocab.json, merges.txt and tokenizer_config.json from the vocabulary that open_clip ships: the real one, or its
    first `merges` merges."""
    spec = importlib.util.find_spec("open_clip")
    path = pathlib.Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.open(path, "rt", encoding="utf-8").read().split("\n")[1 : 49152 - 256 - 2 + 1]
    lines = lines if merges is None else lines[:merges]
    names, order = byte_names()
    tokens = [names[b] for b in order]
    tokens += [t + "</w>" for t in tokens] + ["".join(line.split()) for line in lines] + SPECIAL
    folder.mkdir(parents=True)
    vocab = {t: i for i, t in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    config = dict(tokenizer_class="CLIPTokenizer", model_max_length=77, pad_token=pad, unk_token="<|endoftext|>",
                  bos_token="<|startoftext|>", eos_token="<|endoftext|>")  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens)


def t5_folder(folder, size=1500):
    """spiece.model: a unigram model with T5's ids and normalisation, trained on this machine's Python sources."""
    folder.mkdir(parents=True)
    text = folder / "corpus.txt"
    files = sorted(pathlib.Path(json.__file__).parents[1].glob("*.py"))[:60]
    rows = [r.strip() for f in files for r in f.read_text(encoding="utf-8", errors="ignore").split("\n")]
    rows = [r[:400] for r in rows if len(r) > 10][:8000]
    rows += ["größer naïve café Ωμέγα мир 東京 日本語 한국어 مرحبا שלום हिन्दी ไทย ½ ① ﬁ"] * 40
    text.write_text("\n".join(rows), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "spiece"), vocab_size=size, model_type="unigram", pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, character_coverage=0.9995, normalization_rule_name="nmt_nfkc", minloglevel=2, num_threads=1,
    )  # fmt: skip
    text.unlink()
    (folder / "spiece.vocab").unlink()
    config = dict(tokenizer_class="T5Tokenizer", model_max_length=512, extra_ids=100)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return size + 100


QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|vision_start|>"]
QWEN_PLAIN = ["<tool_call>", "</tool_call>", "<think>", "</think>"]  # found in prompts, but not special
QWEN_WORDS = [*QWEN_SPECIAL, *QWEN_PLAIN, "<|im_start|>user\n", "<think>\n\n</think>\n\n", "<think", "think>", "<think>\u0338", "<|im_end|", "'S", "'LL",
              "x'\u017f", " \n \n", "\n\n", "  \n", "\t\t", "   ", " !", "!\r\n", "\u0085\u0085", " \u3000", "\u2028x", "12345", "\u0660\u06f1"]  # fmt: skip


def learn_merges(texts, n):
    """Byte pairs, the most frequent first, of words cut at blanks: enough to make pieces of every length."""
    names, _ = byte_names()
    words = collections.Counter(w for t in texts for w in (" " + t[:300]).replace(" ", "\0 ").split("\0") if w)
    words = {tuple(names[b] for b in w.encode("utf-8", "surrogatepass")): c for w, c in words.most_common(3000)}
    merges = []
    while len(merges) < n:
        pairs = collections.Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        left, right = max(pairs, key=lambda p: (pairs[p], p))
        merges.append((left, right))
        new = {}
        for word, count in words.items():
            out, i = [], 0
            while i < len(word):
                both = word[i : i + 2] == (left, right)
                out.append(left + right if both else word[i])
                i += 1 + both
            new[tuple(out)] = count
        words = new
    return merges


def qwen_tokenizer(vocab, merges, special=QWEN_SPECIAL, plain=QWEN_PLAIN):
    """transformers' tokenizer with the added tokens behind the vocabulary, as Qwen's have them."""
    from transformers import AddedToken, Qwen2Tokenizer

    t = Qwen2Tokenizer(vocab=vocab, merges=merges, pad_token="<|endoftext|>", eos_token="<|endoftext|>")
    t.add_tokens([AddedToken(s, normalized=False, special=True) for s in special])
    t.add_tokens([AddedToken(s, normalized=False, special=False) for s in plain])
    return t


def small_vocabulary(merges=400):
    """The 256 bytes and the pairs that are learnt from a corpus."""
    names, order = byte_names()
    pairs = learn_merges(corpus(400, seed=5), merges)
    return {t: i for i, t in enumerate(dict.fromkeys([names[b] for b in order] + [a + b for a, b in pairs]))}, pairs


def qwen_folder(folder, layout="json", vocabulary=None, **more):
    """A folder with Qwen's tokenizer, as transformers 5 saves it ("json") or as the hub has it: vocab.json and merges.txt
    with the added tokens in tokenizer_config.json ("config") or in added_tokens.json ("added")."""
    vocab, merges = vocabulary or small_vocabulary()
    t = qwen_tokenizer(vocab, merges, **more)
    t.save_pretrained(folder)
    if layout != "json":
        whole = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
        (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
        config = json.loads((folder / "tokenizer_config.json").read_text())
        added = {x["content"]: x.pop("id") for x in whole["added_tokens"]}
        decoder = {str(added[x["content"]]): x for x in whole["added_tokens"]}
        if layout == "config":
            config["added_tokens_decoder"] = decoder
        else:
            (folder / "added_tokens.json").write_text(json.dumps(added))
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return t


GEMMA_PLAIN = ["<start_of_turn>", "\n\n", "\n\n\n", "\t\t", "▁▁", "▁▁▁", "<table>", "[@BOS@]"]  # added, and found in prompts
GEMMA_WORDS = [*GEMMA_PLAIN, "<bos>", "<pad>", "<eos>x", "<0x41>", "\n\n\n\n", "    ", "<start_of_turn", "start_of_turn>user\n", "▁", "▁ ▁", " ▁▁ "]


def gemma_folder(folder, texts=(), size=900, bos=True):
    """A folder with Gemma's tokenizer, as transformers 5 saves it: pairs of characters learnt from a corpus and from `texts`, the
    256 bytes, and added tokens within the vocabulary."""
    from tokenizers import Tokenizer, models, normalizers, trainers
    from transformers import AddedToken, GemmaTokenizer

    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=size, limit_alphabet=300, show_progress=False)
    learner.train_from_iterator([t[:200] for t in corpus(500, seed=5)] + list(texts) * 40, trainer)
    model = json.loads(learner.to_str())["model"]
    learnt = sorted(model["vocab"], key=model["vocab"].get)
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *GEMMA_PLAIN, *(f"<0x{b:02X}>" for b in range(256)), *learnt]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    t = GemmaTokenizer(vocab=vocab, merges=[tuple(m) for m in model["merges"]], add_bos_token=bos)
    t.add_tokens([AddedToken(s, normalized=False, special=False) for s in GEMMA_PLAIN])
    t.save_pretrained(folder)
    return t


BERT_WORDS = """[CLS] [SEP] [PAD] [UNK] [MASK] [mask] [ENC] [DEC] [ ENC] [CLS]] Ünïcödé ÅNGSTRÖM 東京タワー 㐀 𠀀 豈 İI ẞ ǅ $5+5=10
~a^b|c` <>_ don't café. a\u0300\u0316 \u0344 한국어 \ufffd a\ufffdb \x7f \u2011 «x» ¡¿ ٪ ।""".split(" ")


def bert_folder(folder, pieces=6000, **options):
    """A folder as bert-base-uncased's, saved by transformers with the two tokens that BLIP adds: tokenizer.json and
    tokenizer_config.json.  The vocabulary: what is common in another corpus, and most single characters."""
    from transformers import BertTokenizer

    special = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    save = dict(clean_up_tokenization_spaces=True, **options)
    empty = BertTokenizer(vocab={t: i for i, t in enumerate(special)}, **save).backend_tokenizer
    counts = collections.Counter()
    for text in corpus(3000, seed=9, words=WORDS + BERT_WORDS):
        for word, _ in empty.pre_tokenizer.pre_tokenize_str(empty.normalizer.normalize_str(text[:500])):
            counts.update("##" * (i > 0) + word[i:j] for i in range(len(word)) for j in range(i + 1, min(i + 6, len(word)) + 1))
    common = [t for t, _ in counts.most_common(pieces)] + [t for t in sorted(counts) if len(t.removeprefix("##")) == 1 and ord(t[-1]) % 13]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(special + common))}
    tokenizer = BertTokenizer(vocab=vocab, **save)
    tokenizer.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    tokenizer.save_pretrained(folder)
    return tokenizer


RANGES = [
    (0x20, 0x7E), (0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA),
    (0x621, 0x64A), (0x904, 0x94D), (0xE01, 0xE3A), (0x1E00, 0x1EFF), (0x2000, 0x206F), (0x20A0, 0x20BF),
    (0x2150, 0x218B), (0x2460, 0x24FF), (0x2581, 0x2581), (0x3040, 0x30FF), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3),
    (0xFB00, 0xFB06), (0xFF01, 0xFF5E), (0x1F300, 0x1F64F), (0x1F680, 0x1F6C5), (0x1D400, 0x1D44F), (0x1, 0x1F),
    (0x80, 0x9F), (0xE000, 0xE010),
]  # fmt: skip
WORDS = """a photo of the red crosses left above don't it's we'll I'VE they're 'S ''s 2024 3.14 1,000 <|endoftext|> <pad>
</s> <unk> <extra_id_0> <extra_id_99> <extra_id_07> <|startoftext|> <|STARTOFTEXT|> ⅷ İstanbul ΣΑΣ straße ﬁne ①② e\u0301
a\u0308\u0301 é \u1100\u1161 👩‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️ \u200b \ufeff \u00ad \u2028 \u0085 \t \r\n \u3000 ▁ ▁▁x # $%^ -- ...""".split(" ")


def corpus(n, seed=0, words=WORDS):
    """n strings without zero bytes: words, any script, marks, emoji, controls; some empty, some 10 kB long."""
    r = random.Random(seed)
    out = ["", " ", "\n", "▁", "a", "'", "a" * 10000, "ab " * 3400, "é" * 5000, "\u0301" * 300, " \t x"]

    def piece():
        if r.random() < 0.5:
            return r.choice(words)
        low, high = r.choice(RANGES)
        return "".join(chr(r.randint(low, high)) for _ in range(r.randint(1, 8)))

    while len(out) < n:
        text = r.choice(["", " ", "  "]).join(piece() for _ in range(r.randint(1, 12)))
        out.append(text if r.random() < 0.5 else text.replace(" ", r.choice([" ", "\n", "\u00a0"])))
    return out[:n]
