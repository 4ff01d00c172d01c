"""The side of PEFT in the round trip of adapters (see docs/peft.md).

    python peft_cases.py make FOLDER [--seed N]    random models and PEFT adapters, one folder a case
    python peft_cases.py check FOLDER              loads what finesweep left there and compares the logits

check holds finesweep's logits against PEFT's in fp64, with what PEFT itself loses in fp32 as the yardstick: attention
that is nearly one-hot makes much of every rounding.

A case holds model/ (transformers), case.json (kind, targets and the like), inputs.safetensors, peft/ (an adapter of
PEFT) and peft_logits.safetensors. finesweep adds rewritten/ (PEFT's adapter, read and written again), made/ (one of its
own with the same options) and logits.safetensors with what it computed for all three. Logits are those of real tokens.
"""
import argparse
import json
import random
import sys
import warnings
from pathlib import Path

import torch
import transformers
from peft import IA3Config, LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file

TOLERANCE = 1e-4

transformers.logging.set_verbosity_error()
warnings.filterwarnings("ignore")
torch.set_num_threads(1)


def gpt2(pick):
    heads = pick([2, 3, 4])
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=pick([97, 130]), n_positions=32, n_embd=heads * pick([8, 12]), n_layer=pick([1, 2, 3]), n_head=heads,
        n_inner=pick([None, 56]), bos_token_id=0, eos_token_id=0))


def gpt_neo(pick):
    heads, pairs = pick([2, 4]), pick([1, 2])
    return transformers.GPTNeoForCausalLM(transformers.GPTNeoConfig(
        vocab_size=pick([97, 130]), max_position_embeddings=32, hidden_size=heads * pick([6, 10]), num_layers=2 * pairs,
        attention_types=[[["global", "local"], pairs]], num_heads=heads, window_size=pick([3, 5]), bos_token_id=0,
        eos_token_id=0))


def llama(pick):
    groups, kv_heads = pick([1, 2, 3]), pick([1, 2])
    heads = groups * kv_heads
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=pick([97, 130]), hidden_size=heads * pick([8, 12]), intermediate_size=pick([44, 70]),
        num_hidden_layers=pick([1, 2, 3]), num_attention_heads=heads, num_key_value_heads=kv_heads,
        max_position_embeddings=64, tie_word_embeddings=pick([True, False]), bos_token_id=0, eos_token_id=0))


def t5(pick, gated=False):
    layers = pick([2, 3])
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(
        vocab_size=pick([97, 130]), d_model=pick([24, 40]), d_kv=pick([6, 10]), d_ff=pick([44, 60]), num_layers=layers,
        num_decoder_layers=pick([1, layers]), num_heads=pick([2, 3]), feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not gated, decoder_start_token_id=0))
    return model


def t5_gated(pick):
    return t5(pick, gated=True)


def bert(pick):
    heads = pick([2, 3])
    return transformers.BertForSequenceClassification(transformers.BertConfig(
        vocab_size=pick([97, 130]), hidden_size=heads * pick([8, 14]), num_hidden_layers=pick([1, 2, 3]),
        num_attention_heads=heads, intermediate_size=pick([50, 72]), max_position_embeddings=32, num_labels=pick([2, 4])))


def roberta(pick):
    heads = pick([2, 3])
    return transformers.RobertaForSequenceClassification(transformers.RobertaConfig(
        vocab_size=pick([97, 130]), hidden_size=heads * pick([8, 14]), num_hidden_layers=pick([1, 2, 3]),
        num_attention_heads=heads, intermediate_size=pick([50, 72]), max_position_embeddings=40, type_vocab_size=1,
        num_labels=pick([2, 4]), pad_token_id=1, bos_token_id=0, eos_token_id=2))


FAMILIES = {
    # name: model, names of linear modules, those whose input IA3 can scale, task
    "gpt2": (gpt2, ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"], ["mlp.c_proj"], TaskType.CAUSAL_LM),
    "gpt_neo": (gpt_neo, ["q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"], ["c_proj", "out_proj"],
                TaskType.CAUSAL_LM),
    "llama": (llama, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
              ["down_proj", "o_proj"], TaskType.CAUSAL_LM),
    "t5": (t5, ["q", "k", "v", "o", "wi", "wo"], ["wo", "wi"], TaskType.SEQ_2_SEQ_LM),
    "t5_gated": (t5_gated, ["q", "k", "v", "o", "wi_0", "wi_1", "wo"], ["wo"], TaskType.SEQ_2_SEQ_LM),
    "bert": (bert, ["query", "key", "value", "attention.output.dense", "intermediate.dense", "pooler.dense"],
             ["intermediate.dense", "attention.output.dense"], TaskType.SEQ_CLS),
    "roberta": (roberta, ["query", "key", "value", "attention.output.dense", "intermediate.dense"],
                ["intermediate.dense", "attention.output.dense"], TaskType.SEQ_CLS),
}
KINDS = ["lora_default", "lora_random", "lora_all", "lora_expression", "lora_patterns", "lora_head", "rslora_random",
         "ia3_default", "ia3_random", "ia3_all"]


def randomise(parameters, mean, deviation):
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn_like(parameter) * deviation + mean)


def inputs_for(model, task):
    vocabulary = model.config.vocab_size
    rows, length = random.randint(2, 4), random.randint(6, 12)
    ids = torch.randint(5, vocabulary, (rows, length))
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        real = random.randint(3, length)
        mask[row, real:] = 0
        ids[row, real:] = getattr(model.config, "pad_token_id", None) or 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if task == TaskType.SEQ_2_SEQ_LM:
        decoder = torch.randint(5, vocabulary, (rows, random.randint(3, 7)))
        decoder[:, 0] = 0
        inputs["decoder_input_ids"] = decoder
    return inputs


def real_logits(model, inputs):
    with torch.no_grad():
        logits = model(**inputs).logits
    if logits.dim() == 2:
        return logits
    if "decoder_input_ids" in inputs:
        return logits.flatten(0, 1)
    return logits[inputs["attention_mask"].bool()]


def options_for(kind, names, inner, task):
    options = {"task_type": task}
    if kind.startswith("ia3"):
        if kind == "ia3_random":
            chosen = random.sample(names, random.randint(1, len(names)))
            options["feedforward_modules"] = [name for name in chosen if name in inner]
            options["target_modules"] = chosen
        if kind == "ia3_all":
            options["target_modules"] = "all-linear"
            options["feedforward_modules"] = inner[:1]
        return IA3Config(**options)
    options |= {"r": random.randint(1, 7), "lora_alpha": random.choice([1, 4, 7.5, 16]), "lora_dropout": 0.1,
                "use_rslora": kind.startswith("rslora")}
    if kind.endswith("random"):
        options["target_modules"] = random.sample(names, random.randint(1, len(names)))
    if kind == "lora_all":
        options["target_modules"] = "all-linear"
    if kind == "lora_expression":
        options["target_modules"] = r".*\.0\..*(" + "|".join(random.sample(names, 2)).replace(".", r"\.") + ")"
    if kind == "lora_patterns":
        chosen = random.sample(names, min(3, len(names)))
        options["target_modules"] = chosen
        options["rank_pattern"] = {chosen[0]: 3, chosen[1].replace(".", r"\."): 9}
        options["alpha_pattern"] = {chosen[1].replace(".", r"\."): 2.5}
    if kind == "lora_head":
        options["target_modules"] = ["lm_head", names[0]]
    return LoraConfig(**options)


def make(folder, seed):
    for family, (build, names, inner, task) in FAMILIES.items():
        for kind in KINDS:
            if kind == "lora_head" and task == TaskType.SEQ_CLS:
                continue
            random.seed(f"{seed} {family} {kind}")
            torch.manual_seed(random.randrange(2**31))
            model = build(random.choice).eval()
            randomise([p for p in model.parameters() if p.dim() > 1], 0, 0.2)
            randomise([p for n, p in model.named_parameters() if p.dim() == 1 and n.endswith("weight")], 1, 0.2)
            randomise([p for n, p in model.named_parameters() if n.endswith("bias")], 0, 0.2)
            case = folder / f"{family}-{kind}-{seed}"
            model.save_pretrained(case / "model")
            config = options_for(kind, names, inner, task)
            asked = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
            peft = get_peft_model(model, config).eval()
            randomise([p for n, p in peft.named_parameters() if "lora_" in n], 0, 0.3)
            randomise([p for n, p in peft.named_parameters() if "ia3_l" in n], 1, 0.3)
            inputs = inputs_for(model, task)
            peft.save_pretrained(case / "peft")
            save_file(inputs, case / "inputs.safetensors")
            logits = {"fp32": real_logits(peft, inputs).contiguous()}
            logits["fp64"] = real_logits(peft.double(), inputs).contiguous()
            save_file(logits, case / "peft_logits.safetensors")
            wanted = {key: asked.get(key) for key in (
                "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "feedforward_modules", "rank_pattern",
                "alpha_pattern")}
            wanted |= {"kind": "ia3" if kind.startswith("ia3") else "lora"}
            (case / "case.json").write_text(json.dumps(wanted))


CLASSES = {TaskType.CAUSAL_LM: transformers.AutoModelForCausalLM,
           TaskType.SEQ_2_SEQ_LM: transformers.AutoModelForSeq2SeqLM,
           TaskType.SEQ_CLS: transformers.AutoModelForSequenceClassification}


def peft_logits(case, which):
    """In fp32 and fp64."""
    if which == "peft":  # as computed before it was saved: PEFT does not load all that it saves
        logits = load_file(case / "peft_logits.safetensors")
        return logits["fp32"], logits["fp64"]
    task = FAMILIES[case.name.split("-")[0]][3]
    base = CLASSES[task].from_pretrained(case / "model", attn_implementation="eager")
    model = PeftModel.from_pretrained(base, case / which).eval()
    inputs = load_file(case / "inputs.safetensors")
    return real_logits(model, inputs), real_logits(model.double(), inputs)


def check_case(case):
    """How far finesweep's logits are from PEFT's in fp64, how far PEFT's own in fp32 are, and what is wrong."""
    mine = load_file(case / "logits.safetensors")
    apart, problems, exact = {}, [], {}
    for which in ("peft", "rewritten", "made"):
        rounded, exact[which] = peft_logits(case, which)
        own = (rounded - exact[which]).abs().max().item()
        apart[which] = (mine[which] - exact[which]).abs().max().item()
        apart["rounding"] = max(own, apart.get("rounding", 0))
        if not apart[which] <= TOLERANCE + 4 * own:
            problems.append(f"the logits with the {which} adapter are {apart[which]:.1e} apart, PEFT's in fp32 {own:.1e}")
    if not (exact["made"] - exact["peft"]).abs().max() > 1e-3:
        problems.append("the adapter that finesweep made changes nothing")
    if case.name.split("-")[1].endswith("default"):
        theirs, ours = (json.loads((case / which / "adapter_config.json").read_text()) for which in ("peft", "made"))
        for key in ("target_modules", "feedforward_modules"):
            if sorted(theirs.get(key, [])) != sorted(ours.get(key, [])):
                problems.append(f"{key} is {ours.get(key)} by default, with PEFT {theirs.get(key)}")
    if "merged" in mine:
        merged = (mine["merged"] - exact["made"]).abs().max().item()
        if not merged <= TOLERANCE + 4 * apart["rounding"]:
            problems.append(f"the merged adapter's logits are {merged:.1e} apart")
    return apart, problems


def check(folder):
    worst, failures, compared, left_out = {}, 0, 0, 0
    for case in sorted(path.parent for path in folder.glob("*/case.json")):
        if not (case / "logits.safetensors").exists():
            left_out += 1
            continue
        family, kind, _ = case.name.split("-")
        apart, problems = check_case(case)
        compared += 1
        failures += bool(problems)
        for problem in problems:
            print(f"{case.name}: {problem}")
        row = worst.setdefault((family, kind.split("_")[0]), {})
        for which, value in apart.items():
            row[which] = max(row.get(which, 0), value)
    columns = {"peft": "PEFT's adapter, read", "rewritten": "read and written again", "made": "made here",
               "rounding": "PEFT in fp32"}
    print("| family | kind | " + " | ".join(columns.values()) + " |\n|---|---|" + "---|" * len(columns))
    for (family, kind), apart in worst.items():
        print(f"| {family} | {kind} | " + " | ".join(f"{apart[which]:.1e}" for which in columns) + " |")
    print(f"{compared} cases, {failures} failures, {left_out} not computed by finesweep")
    return 1 if failures or left_out or not compared else 0


parser = argparse.ArgumentParser()
parser.add_argument("what", choices=["make", "check"])
parser.add_argument("folder", type=Path)
parser.add_argument("--seed", type=int, default=1)
arguments = parser.parse_args()
if arguments.what == "make":
    make(arguments.folder, arguments.seed)
else:
    sys.exit(check(arguments.folder))
