"""Training steps against the Python package, in interleaved runs on the same machine.

    python -m venv VENV && VENV/bin/pip install mblm torch
    cargo build --release -p mblm-cli
    VENV/bin/python benchmarks/training.py target/release/mblm --runs 5 [--precision bf16]

Both programs train the models of `mblm bench`, with random weights, on random bytes, in as many threads, in float32 or with
bfloat16 products (`--precision bf16` here, torch.autocast around the package's forward pass); a step is forward, backward, clipping and Adam. A run is a process: one step to warm up, then some that are timed, of which the median
counts. Where mamba_ssm is not installed the package has no Mamba2: its Mamba1 stands beside both.

Medians over the runs, with the smallest and the largest; peak resident memory of each process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

TRANSFORMER = {"attn_head_dims": 64, "attn_num_heads": 4, "attn_use_rot_embs": True, "ff_multiplier": 2, "pos_emb_type": "fixed"}
MAMBA = {"d_state": 16, "d_conv": 4, "expand": 2, "headdim": 64, "pos_emb_type": None}
# of `mblm bench`: its name, the positions of the stages, their blocks and layers in the package
MODELS = {
    "transformer": ([256, 8], [TRANSFORMER, TRANSFORMER], [4, 4]),
    "mamba1": ([256, 8], [MAMBA, TRANSFORMER], [4, 4]),
    "mamba2": ([256, 8], [MAMBA, TRANSFORMER], [4, 4]),
    "flat": ([2048], [TRANSFORMER], [8]),
}
BATCH, STEPS = 2, 3


def package(name, precision, threads):
    """Trains the package's model in this process: prints seconds of each step and the peak memory as JSON."""
    import resource

    import torch
    from mblm import MBLM, MambaBlock, MBLMModelConfig, MBLMReturnType, TransformerBlock

    torch.set_num_threads(threads)
    lengths, blocks, layers = MODELS[name]
    block = [MambaBlock(**keys) if "d_state" in keys else TransformerBlock(**keys) for keys in blocks]
    config = MBLMModelConfig(num_tokens=257, pad_token_id=256, hidden_dims=[256] * len(lengths), seq_lens=lengths,
                             num_layers=layers, train_checkpoint_chunks=None, block=block)
    model = MBLM(config).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    seconds = []
    for _ in range(STEPS + 1):
        batch = torch.randint(0, 256, (BATCH, 2048))
        started = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = model(batch, return_type=MBLMReturnType.LOSS)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds[1:], "peak": peak}))


def output(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr}")
    return json.loads(done.stdout[done.stdout.index("{"):])


def show(name, values, unit, scale):
    middle = statistics.median(values) / scale
    print(f"  {name:34} {middle:10.2f} {unit:8} ({min(values) / scale:.2f}–{max(values) / scale:.2f})", flush=True)
    return middle


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", nargs="?")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--precision", default="float32", choices=["float32", "bf16"])
    parser.add_argument("--package", help=argparse.SUPPRESS)
    args = parser.parse_args()
    threads = int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count()))
    if args.package:
        return package(args.package, args.precision, threads)
    for name in args.models:
        ours, theirs, share, memory = [], [], [], {"ours": [], "theirs": []}
        for _ in range(args.runs):
            found = output(args.program, "bench", name, "--what", "train", "--seconds", "0", "--batch-size", str(BATCH),
                           "--precision", args.precision, "--json", "-q")["train"]
            ours.append(found["bytes_per_second"]["median"])
            share.append(found["share_of_product"])
            memory["ours"].append(found["peak_resident_bytes"])
            found = output(sys.executable, os.path.abspath(__file__), "--package", name, "--precision",
                           args.precision)
            theirs.append(BATCH * 2048 / statistics.median(found["seconds"]))
            memory["theirs"].append(found["peak"])
        print(f"{name}, {args.precision}, {args.runs} runs of each")
        ratio = show("mblm", ours, "kB/s", 1e3) / show("package", theirs, "kB/s", 1e3)
        show("share of a float32 product's speed", share, "", 1)
        less = show("memory, mblm", memory["ours"], "MiB", 2**20) / show("memory, package", memory["theirs"], "MiB", 2**20)
        print(f"  {ratio:.2f} times as fast, {less:.2f} of the memory", flush=True)


if __name__ == "__main__":
    main()
