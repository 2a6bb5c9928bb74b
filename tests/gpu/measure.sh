#!/usr/bin/env bash
# Everything worth measuring on a machine with a GPU, in seven minutes at most: the doctor, the GPU tests, then the benchmarks.
#
#     tests/gpu/measure.sh OUT PHOTOGRAPHS
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
trap 'rm -rf "$linked" "$raw"' EXIT

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

parallel=()
if "$python" -c 'import xdist' 2>/dev/null; then parallel=(-n "$test_workers"); fi
# The installed torch may be another one than the one that the tests were written with, and warn of other things.
part doctor 60 "$python" -m dali_mix.tools.cli doctor
part tests "$tests_s" "$python" -m pytest -m gpu -q -o filterwarnings=default "${parallel[@]}" "$tests"

loader=("$python" -m dali_mix.tools.bench loader --data-dir "$linked" --device "$device" --img-size "$img_size"
    -b "$batch" --interpolation bilinear --batches "$batches" --rounds "$rounds")
read -ra sweep <<<"--sweep-threads $sweep_threads${sweep_loads:+ --sweep-loads $sweep_loads}"
# A limit within each limit: one that ends by itself says what it has measured.
part loader "$loader_s" "${loader[@]}" -j "$threads" --baseline none nvidia nvidia_mixup \
    --time-limit "$((loader_s * 8 / 10))" --json "$out/loader.json"
part others "$others_s" "${loader[@]}" -j "$threads" --only none decode decode_resize timm torchvision \
    --time-limit "$((others_s * 8 / 10))" --json "$out/others.json"
part sweep "$sweep_s" "${loader[@]}" --sweep "${sweep[@]}" \
    --time-limit "$((sweep_s * 8 / 10))" --json "$out/sweep.json"
part overhead "$overhead_s" "$python" -m dali_mix.tools.bench overhead --device "$device" --rounds "$rounds" \
    --time-limit "$((overhead_s * 6 / 10))" --json "$out/overhead.json"

echo "== all in $SECONDS s; files in $out"
exit "$failed"
