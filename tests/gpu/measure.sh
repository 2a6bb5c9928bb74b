#!/usr/bin/env bash
# Everything worth measuring on a machine with a GPU, in blocks of at most six, seven, six and six minutes:
#
#     MEASURE_BLOCKS="augment loader step more" tests/gpu/measure.sh OUT PHOTOGRAPHS
#
# "augment": a recipe's augmentation: its GPU tests, also under compute-sanitizer where there is one, its loader beside
# decoding, flips and the rivals, its operators, and a compiled step on it.  "loader": the doctor, the GPU tests, the
# benchmarks of loader and mixing operators.  "step": the training step, synthetic and from files, eager and compiled,
# and the whole trainer.  "more": other models and modes of compilation.
#
# OUT gets report.txt and a JSON file for each benchmark.  PHOTOGRAPHS holds one sub-folder of JPEG files per class;
# links beside it make as many of them as are needed.  A machine without a compiler, or whose DALI has no headers, is
# given the native operators: `python -m dali_mix.native --into-package` elsewhere, then bring dali_mix/native/built.
# Each part has its own time limit, and a part that fails stops no other; the exit code is 0 if none failed.  What can
# be set, with its default:
set -u
device=${MEASURE_DEVICE:-gpu}
python=${MEASURE_PYTHON:-python}
images=${MEASURE_IMAGES:-12800}
img_size=${MEASURE_IMG_SIZE:-224}
batch=${MEASURE_BATCH:-256}
threads=${MEASURE_THREADS:-16}
batches=${MEASURE_BATCHES:-20}
rounds=${MEASURE_ROUNDS:-15}                     # as many of them as the time limits allow
sweep_threads=${MEASURE_SWEEP_THREADS:-4 8 16}
sweep_loads=${MEASURE_SWEEP_LOADS-0.35 0.65 0.9 1}
tests=${MEASURE_TESTS:-tests}
test_workers=${MEASURE_TEST_WORKERS:-8}          # processes, where pytest-xdist is installed
tests_s=${MEASURE_TESTS_S:-140}                  # seconds that each part may take, 335 in all
loader_s=${MEASURE_LOADER_S:-80}
others_s=${MEASURE_OTHERS_S:-40}
sweep_s=${MEASURE_SWEEP_S:-50}
overhead_s=${MEASURE_OVERHEAD_S:-25}
blocks=${MEASURE_BLOCKS:-augment loader step more}
recipe=${MEASURE_RECIPE:-deit_small}
augment_tests_s=${MEASURE_AUGMENT_TESTS_S:-45}   # these six 355 in all
recipe_s=${MEASURE_RECIPE_S:-70}
rivals_s=${MEASURE_RIVALS_S:-70}
augment_overhead_s=${MEASURE_AUGMENT_OVERHEAD_S:-25}
augment_step_s=${MEASURE_AUGMENT_STEP_S:-90}
sanitizer_s=${MEASURE_SANITIZER_S:-55}
model=${MEASURE_MODEL:-deit_small_patch16_224}
resnet=${MEASURE_RESNET:-resnet50}
pvt=${MEASURE_PVT:-pvt_small}
backend=${MEASURE_BACKEND:-inductor}             # of torch.compile
modes=${MEASURE_MODES-reduce-overhead max-autotune}
steps=${MEASURE_STEPS:-10}                       # updates of an alternative and round
updates=${MEASURE_UPDATES:-100}                  # of the whole trainer
synthetic_s=${MEASURE_SYNTHETIC_S:-110}          # these five and the trainer's two runs 330 in all
files_s=${MEASURE_FILES_S:-90}
guard_s=${MEASURE_GUARD_S:-40}
trainer_s=${MEASURE_TRAINER_S:-35}
loop_s=${MEASURE_LOOP_S:-20}
model_s=${MEASURE_MODEL_S:-50}                   # the two other models and modes 320
mode_s=${MEASURE_MODE_S:-110}

if [ $# -ne 2 ] || [ ! -d "${2:-}" ]; then
    echo "usage: $0 OUT PHOTOGRAPHS (a folder with one sub-folder of JPEG files per class)" >&2
    exit 2
fi
mkdir -p "$1" || exit 2
out=$(realpath "$1")
: >"$out/report.txt"
photographs=$(realpath "$2")
cd "$(dirname "$0")/../.." || exit 2
failed=0
linked=$(mktemp -d -p "$(dirname "$photographs")") || exit 2  # hard links do not cross file systems
raw=$(mktemp)
both=$(mktemp -d) || exit 2 # train/ and val/, which are the same
trap 'rm -rf "$linked" "$raw" "$both"' EXIT

part() { # NAME SECONDS COMMAND...: run it, and keep both ends of what it prints
    local name=$1 limit=$2 started=$SECONDS code
    shift 2
    timeout -k 5 "$limit" "$@" >"$raw" 2>&1
    code=$?
    [ "$code" -eq 0 ] || failed=1
    {
        echo "== $name: exit code $code after $((SECONDS - started)) of $limit s, $(wc -l <"$raw") lines"
        { head -n 10 "$raw"; tail -n +11 "$raw" | tail -n 30; } | cut -c -300 # a decoder can warn once for every image
    } | tee -a "$out/report.txt"
}

# shellcheck disable=SC2016  # the shell that is started expands them
part machine 30 bash -c '
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    "$0" -c "from dali_mix.tools.bench.report import environment; print(environment())"
    "$0" - "$1" "$2" "$3" <<"PYTHON"
import itertools, os, pathlib, sys

photographs, linked, count = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
files = sorted(path for path in photographs.glob("*/*") if path.is_file())
for number, path in enumerate(itertools.islice(itertools.cycle(files), count)):
    folder = linked / path.parent.name
    folder.mkdir(exist_ok=True)
    os.link(path, folder / f"{number // len(files)}_{path.name}")
print(f"{count} links to {len(files)} photographs")
PYTHON
' "$python" "$photographs" "$linked" "$images"

wanted() { [[ " $blocks " == *" $1 "* ]]; }

say() { # TEXT: into the report
    echo "== $1" | tee -a "$out/report.txt"
}

parallel=()
if "$python" -c 'import xdist' 2>/dev/null; then parallel=(-n "$test_workers"); fi
# The installed torch may be another one than the one that the tests were written with, and warn of other things.
gpu_tests=(-m pytest -m gpu -q -o filterwarnings=default)
loader=("$python" -m dali_mix.tools.bench loader --data-dir "$linked" --device "$device" --img-size "$img_size"
    -b "$batch" --batches "$batches" --rounds "$rounds")
overhead=("$python" -m dali_mix.tools.bench overhead --device "$device" --rounds "$rounds")

on=$device
[ "$device" = gpu ] && on=cuda
# One process each: a part that fails, or compiles for ever, takes no other's figures with it.
step() { # NAME SECONDS FLAGS...: the benchmark of the step, with a limit within its limit
    local name=$1 limit=$2
    shift 2
    part "$name" "$limit" "$python" -m dali_mix.tools.bench step --device "$on" --img-size "$img_size" -b "$batch" \
        -j "$threads" --amp --amp-dtype bfloat16 --steps "$steps" --rounds "$rounds" \
        --time-limit "$((limit * 8 / 10))" --json "$out/$name.json" "$@"
}

if wanted augment; then
    part augment-tests "$augment_tests_s" "$python" "${gpu_tests[@]}" -k augment "${parallel[@]}" "$tests"
    part recipe "$recipe_s" "${loader[@]}" -j "$threads" --recipe "$recipe" --only decode flip recipe recipe_half \
        --baseline decode flip --time-limit "$((recipe_s * 8 / 10))" --json "$out/recipe.json"
    part rivals "$rivals_s" "${loader[@]}" -j "$threads" --recipe "$recipe" \
        --only recipe nvidia_recipe timm_recipe torchvision_recipe --baseline recipe \
        --time-limit "$((rivals_s * 8 / 10))" --json "$out/rivals.json"
    part augment-overhead "$augment_overhead_s" "${overhead[@]}" --img-size 32 --batches "$((batches * 2))" \
        --only flip erasing jitter 3a rand recipe \
        --time-limit "$((augment_overhead_s * 6 / 10))" --json "$out/augment-overhead.json"
    # Of the compiled step alone, synthetic and from files.
    step augment-step "$augment_step_s" --model "$model" --torchcompile "$backend" --data-dir "$linked" \
        --recipe "$recipe" --only mixup --steps "$((steps * 3))"
    if [ "$device" != gpu ]; then
        say "sanitizer: left out, there is no GPU"
    elif command -v compute-sanitizer >/dev/null; then
        part sanitizer "$sanitizer_s" compute-sanitizer --tool memcheck --error-exitcode 1 "$python" "${gpu_tests[@]}" \
            -k augment "$tests"
    else
        say "sanitizer: left out, there is no compute-sanitizer"
    fi
fi

if wanted loader; then
    part doctor 60 "$python" -m dali_mix.tools.cli doctor
    part tests "$tests_s" "$python" "${gpu_tests[@]}" "${parallel[@]}" "$tests"

    bilinear=("${loader[@]}" --interpolation bilinear)
    read -ra sweep <<<"--sweep-threads $sweep_threads${sweep_loads:+ --sweep-loads $sweep_loads}"
    # A limit within each limit: one that ends by itself says what it has measured.
    part loader "$loader_s" "${bilinear[@]}" -j "$threads" --baseline none nvidia nvidia_mixup \
        --time-limit "$((loader_s * 8 / 10))" --json "$out/loader.json"
    part others "$others_s" "${bilinear[@]}" -j "$threads" \
        --only none none_half random_mix_half decode decode_resize timm torchvision \
        --time-limit "$((others_s * 8 / 10))" --json "$out/others.json"
    part sweep "$sweep_s" "${bilinear[@]}" --sweep "${sweep[@]}" \
        --time-limit "$((sweep_s * 8 / 10))" --json "$out/sweep.json"
    part overhead "$overhead_s" "${overhead[@]}" \
        --only one_hot cutmix mixup random_mix "random_mix, size read" "cutmix elem" "mixup elem" "random_mix elem" \
        --time-limit "$((overhead_s * 6 / 10))" --json "$out/overhead.json"
fi

if wanted step; then
    step synthetic "$synthetic_s" --model "$model" --compiled --torchcompile "$backend"
    step files "$files_s" --model "$model" --compiled --torchcompile "$backend" --data-dir "$linked" \
        --only mixup "half smmix" --steps "$((steps * 3))"
    step guard "$guard_s" --model "$model" --unguarded --only mixup "half smmix"
    # What a user runs: its own pipeline, schedule, log and progress.
    ln -s "$linked" "$both/train" && ln -s "$linked" "$both/val"
    for mixing in "--mixup 0.8" "--mixup 0.8 --smmix"; do
        read -ra flags <<<"$mixing"
        part "trainer $mixing" "$trainer_s" "$python" train_imagenet.py --data-dir "$both" --model "$model" \
            --img-size "$img_size" -b "$batch" -j "$threads" --device "$on" --amp --amp-dtype bfloat16 --opt adamw \
            --lr 5e-4 --bench-steps "$updates" --output "$both/none" "${flags[@]}"
    done
    step loop "$loop_s" --model "$model" --loop
fi

if wanted more; then
    step resnet50 "$model_s" --model "$resnet" --compiled --torchcompile "$backend"
    step pvt "$model_s" --model "$pvt"
    for mode in $modes; do
        step "$mode" "$mode_s" --model "$model" --compiled --torchcompile "$backend" --torchcompile-mode "$mode" \
            --only mixup smmix
    done
fi

echo "== all in $SECONDS s; files in $out"
exit "$failed"
