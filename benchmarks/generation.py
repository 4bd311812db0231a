"""Generation and prefill against the Python package, in interleaved runs on the same machine.

    python -m venv VENV && VENV/bin/pip install mblm torch pyyaml
    cargo build --release -p mblm-cli
    VENV/bin/python benchmarks/generation.py target/release/mblm --runs 5

Both programs have the same configuration and random weights, and the same number of threads. What is measured:

- bytes a second of one stream, greedy, after a prompt of 64, 1000 and 2000 bytes (the prompt itself not counted);
- bytes a second of eight streams together, after one prompt;
- the model with Mamba2 on top: bytes a second after 1 kB and after 10 MB, resident memory of that prefill, and its speed.
  Where mamba_ssm is not installed the package builds Mamba1 from the same keys; its prefill is that of a forward pass of
  the largest prompt that it takes.

Medians of interleaved runs, with the smallest and the largest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import torch
import yaml

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TEXT = open(os.path.join(HERE, "data/austen/emma.txt"), "rb").read()


def config(name):
    return yaml.safe_load(open(os.path.join(HERE, "configs", name)))


def package_model(params):
    from mblm import MBLM, MambaBlock, MBLMModelConfig, TransformerBlock

    blocks = params["block"] if isinstance(params["block"], list) else [params["block"]] * len(params["seq_lens"])
    model = {key: params[key] for key in ("num_tokens", "pad_token_id", "seq_lens", "hidden_dims", "num_layers")}
    block = [MambaBlock(**keys) if "d_state" in keys else TransformerBlock(**keys) for keys in blocks]
    return MBLM(MBLMModelConfig(**model, train_checkpoint_chunks=None, block=block)).eval()


class Program:
    """This project's program."""

    def __init__(self, path, folder):
        self.path, self.folder = path, folder

    def model(self, name):
        """A model of a configuration, trained for one batch: its folder."""
        out = os.path.join(self.folder, name)
        sets = ["train.target_elements=16384", "train.batch_size=2", "train.max_eval_steps=1", "io.validate_amount=1",
                f"io.dataset_dir={HERE}/data/austen"]
        self.run("train", os.path.join(HERE, "configs", name), "--out", out, "--sample-bytes", "0", "-q",
                 *[word for value in sets for word in ("--set", value)])
        return os.path.join(out, os.listdir(out)[0])

    def run(self, *args):
        done = subprocess.run([self.path, *args], capture_output=True)
        if done.returncode:
            sys.exit(f"{args}: {done.stderr.decode()}")
        return done.stdout

    def prompt(self, model, length):
        """The state after a prompt of this length; seconds and peak resident bytes of reading it."""
        prompt, state = (os.path.join(self.folder, name) for name in ("prompt", f"state-{length}"))
        with open(prompt, "wb") as file:
            file.write((TEXT * (length // len(TEXT) + 1))[:length])
        process = subprocess.Popen([self.path, "generate", "-m", model, "--prompt-file", prompt, "-n", "1", "--seed", "1",
                                    "--json", "--save-state", state], stdout=subprocess.PIPE)
        # the kernel's account of a finished child begins with this process's memory: read the child's own while it runs
        output = []
        reader = threading.Thread(target=lambda: output.append(process.stdout.read()))
        reader.start()
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident_peak(process.pid))
            time.sleep(0.02)
        reader.join()
        return state, json.loads(output[0])["seconds"], peak

    def speed(self, model, state, count, streams=1):
        """Bytes a second, all streams together, after a state."""
        found = json.loads(self.run("generate", "-m", model, "--load-state", state, "-n", str(count), "--temperature", "0",
                                    "--num-samples", str(streams), "--json"))
        return count * streams / found["seconds"]


def resident_peak(pid):
    """The most memory that a running process has occupied so far (Linux)."""
    try:
        with open(f"/proc/{pid}/status") as status:
            return max((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")), default=0)
    except OSError:
        return 0


def package_speed(model, length, count):
    prompt = torch.tensor(list(TEXT[:length]))
    started = time.time()
    with torch.inference_mode():
        model.generate(prompt, num_tokens_to_generate=count, enable_progress=False)
    return count / (time.time() - started)


def package_forward(model, length):
    """Bytes a second of a forward pass."""
    from mblm import MBLMReturnType

    prompt = torch.tensor([list((TEXT * (length // len(TEXT) + 1))[:length])])
    started = time.time()
    with torch.inference_mode():
        model(prompt, return_type=MBLMReturnType.LOGITS)
    return length / (time.time() - started)


def show(name, values, unit="bytes/s"):
    print(f"{name:58} {statistics.median(values):12.1f} {unit}  ({min(values):.1f}–{max(values):.1f})", flush=True)
    return statistics.median(values)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=10.0, help="the long prompt")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count())))
    with tempfile.TemporaryDirectory() as folder:
        program = Program(os.path.abspath(args.program), folder)
        small, mamba = program.model("small-transformer.yaml"), program.model("mamba2-transformer.yaml")
        package = package_model(config("small-transformer.yaml")["params"])
        states = {length: program.prompt(small, length)[0] for length in (64, 1000, 1900)}
        ours, theirs, alone, eight = {64: [], 1000: [], 1900: []}, {64: [], 1000: [], 1900: []}, [], []
        package_speed(package, 64, 2)
        for _ in range(args.runs):
            for length, state in states.items():
                ours[length].append(program.speed(small, state, 140))
                theirs[length].append(package_speed(package, length, 6))
            # long enough that the start counts for little: 140 bytes take twenty milliseconds
            alone.append(program.speed(small, states[64], 1800))
            eight.append(program.speed(small, states[64], 1800, 8))
        for length in states:
            a = show(f"T/T, one stream after {length} bytes", ours[length])
            b = show(f"  package", theirs[length])
            print(f"  ratio {a / b:.1f}")
        one = statistics.median(ours[64])
        print(f"  after 1900 against after 64: {statistics.median(ours[1900]) / one:.3f}")
        many, one = show("T/T, eight streams, 1800 bytes each", eight), show("  one stream, 1800 bytes", alone)
        print(f"  ratio {many / one:.2f}")

        long = int(args.megabytes * 1e6)
        short_state = program.prompt(mamba, 1000)[0]
        long_state, seconds, resident = program.prompt(mamba, long)
        after = {"1 kB": [], "long": []}
        for _ in range(args.runs):
            after["1 kB"].append(program.speed(mamba, short_state, 400))
            after["long"].append(program.speed(mamba, long_state, 400))
        a, b = show("Mamba2/T, one stream after 1 kB", after["1 kB"]), show(f"Mamba2/T, after {long} bytes", after["long"])
        print(f"  ratio {b / a:.3f}")
        print(f"prefill of {long} bytes: {long / seconds / 1e3:.1f} kB/s, peak {resident / 2**20:.0f} MiB resident")
        package = package_model(config("mamba2-transformer.yaml")["params"])
        prefill, forward = [], []
        for _ in range(args.runs):
            prefill.append(8192 * 8 / program.prompt(mamba, 8192 * 8)[1])
            forward.append(package_forward(package, 8192))
        a, b = show("Mamba2/T, prefill of 64 kB", prefill), show("  package, forward pass of 8 kB", forward)
        print(f"  ratio {a / b:.2f}")


if __name__ == "__main__":
    main()
