#!/usr/bin/env bash
# All that is to be known on a GPU, in one command of at most 12 minutes, with no network:
#     bash benchmarks/gpu.sh                        tests, training, inference, study, in this order
#     OUT=folder bash benchmarks/gpu.sh tests       some of them
#     DEVICE=cpu TINY=1 bash benchmarks/gpu.sh      a dry run
# Needs Python with PyTorch, timm and what the tests need; wheels of what is missing may lie in .whl/ here. Each part has
# a time limit and writes JSON as soon as it has measured, so one that is cut or fails leaves the rest standing.
set -uo pipefail
cd "$(dirname "$0")/.."

device=${DEVICE:-cuda}
out=$(mkdir -p "${OUT:-build/gpu}" && cd "${OUT:-build/gpu}" && pwd)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TEST_DEVICE=$device
if compgen -G '.whl/*.whl' > /dev/null; then
    site=$(mktemp -d)
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl
    PYTHONPATH="$PYTHONPATH:$site"
fi
train=(--batch-sizes 128 256) compiled=(--batch-sizes 128) common=(--image-sizes 224 --rounds 12 --autocast)
infer=(--batch-sizes 1 32 256)
study=(--layers 3 4 6 3 --width 1 --size 96 --tasks digits --seeds 2 --arms plain plain_longer se se_fast)
if [ "${TINY:-}" ]; then
    train=(--batch-sizes 2) compiled=(--batch-sizes 2) common=(--image-sizes 32 --rounds 2)
    infer=(--batch-sizes 2 --size 32 --rounds 2 --dtypes float32)
    study=(--size 32 --tasks digits --seeds 1 --steps 2 --source-steps 2 --arms plain plain_longer se se_fast)
fi

failed=()
part() {  # name, seconds, command
    printf '\n=== %s (%s s)\n' "$1" "$SECONDS"
    timeout "$2" "${@:3}" 2>&1 | tee "$out/$1.log" || failed+=("$1")
}
training=(python3 benchmarks/training.py --device "$device" --out "$out" --layouts channels_last "${common[@]}")
[ $# -gt 0 ] || set -- tests training inference study
for name in "$@"; do
    case $name in
        tests) part tests 180 python3 -m pytest -q -o filterwarnings=default -p no:cacheprovider -m gpu tests/test_gpu.py ;;
        training)
            part training 60 "${training[@]}" "${train[@]}"
            part training_compiled 150 "${training[@]}" "${compiled[@]}" --compile ;;
        inference)
            part inference 50 python3 benchmarks/gpu_inference.py --device "$device" --out "$out" "${infer[@]}"
            part inference_compiled 120 python3 benchmarks/gpu_inference.py \
                --device "$device" --out "$out" --dtypes float16 "${infer[@]}" --compile ;;
        study) part study 150 python3 benchmarks/study.py --device "$device" --output "$out" "${study[@]}" ;;
        *) echo "unknown part: $name; expected tests, training, inference or study" >&2; exit 2 ;;
    esac
done
printf '\n=== done (%s s); failed or cut: %s\n' "$SECONDS" "${failed[*]:-none}"
[ ${#failed[@]} -eq 0 ]
