#!/usr/bin/env bash
# Runs the GPU tests or the GPU benchmark that `cargo xtask gpu pack` packed into this folder. Needs an NVIDIA driver and
# CUDA's libraries (those of a pip-installed PyTorch are found); the benchmark needs python3 with torch and transformers.
#
#   ./run.sh test [--output DIR] [--only NAME,NAME]    every test binary; DIR/gpu-suite.log ends with a table
#   ./run.sh bench [arguments]                         tests/peers/gpu.py: both programs, alternating, and the table
#   ./run.sh gpu_benchmark ARGUMENTS, ./run.sh swift ARGUMENTS    one program, with the libraries on its path
#
# Environment: SWIFT_TEST_DEVICE (cuda:0), SWIFT_TEST_THREADS (8 tests at a time in a binary), SWIFT_TEST_SECONDS (180 for
# a binary), SWIFT_SUITE_SECONDS (480 for all of them; what is left then is listed as not run), SWIFT_SUITE_MEASURE (no
# leaves out what only measures).
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
manifest=$here/manifest.txt
die() { echo "run.sh: $*" >&2; exit 2; }
field() { awk -F'\t' -v key="$1" '$1 == key { print $2; exit }' "$manifest"; }
root=$(field root)

# CUDA's libraries where pip puts them. cudarc asks for libnccl.so, which pip does not call so.
libraries() {
    local folders links=$here/lib
    folders=$(python3 - 2>/dev/null <<'PYTHON'
import glob, site, sys
roots = {p for p in sys.path + site.getsitepackages() if p.endswith("-packages")}
print(":".join(sorted(f for r in roots for f in glob.glob(r + "/nvidia/*/lib"))))
PYTHON
    )
    mkdir -p "$links"
    for nccl in $(tr ':' '\n' <<<"$folders" | sed 's|$|/libnccl.so.2|'); do
        [ -e "$nccl" ] && ln -sfn "$nccl" "$links/libnccl.so"
    done
    export LD_LIBRARY_PATH=$links${folders:+:$folders}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

# Tests know their data by the path that the source had when they were compiled: make it lead here.
place() {
    if [ -L "$root" ]; then
        [ -f "$root/../manifest.txt" ] || die "$root is a link to something else; remove it"
        ln -sfn "$here/tree" "$root"
    elif [ ! -e "$root" ]; then
        mkdir -p "$(dirname "$root")" 2>/dev/null && ln -s "$here/tree" "$root" 2>/dev/null ||
            die "cannot make $root, where the tests look for their data: run this as root"
    elif [ ! -d "$root/tests/oracles" ]; then
        die "$root exists and is not this project: move it away for the run"
    fi
    local swift beside
    swift=$(field swift)
    if [ -n "$swift" ] && [ ! -e "$root/$swift" ]; then
        mkdir -p "$(dirname "$root/$swift")" && ln -sfn "$here/bin/swift" "$root/$swift"
    fi
    beside=$(dirname "$root")/shared
    [ -e "$beside" ] || [ ! -d "$here/beside/shared" ] || ln -s "$here/beside/shared" "$beside"
}

# one NAME FOLDER SECONDS LOG ARGUMENTS...: a test binary with libtest's arguments.
one() {
    local name=$1 folder=$2 seconds=$3 log=$4
    shift 4
    (cd "$root/$folder" && CARGO_MANIFEST_DIR=$root/$folder INSTA_WORKSPACE_ROOT=$root INSTA_UPDATE=no \
        timeout -k 5 "$seconds" "$here/bin/$name" --include-ignored --show-output "$@") >"$log" 2>&1
}

left() { echo $((deadline - SECONDS)); }

suite() {
    local output=. only=
    while [ $# -gt 0 ]; do
        case $1 in
            --output) output=$2; shift 2 ;;
            --only) only=,$2,; shift 2 ;;
            *) die "unknown argument $1" ;;
        esac
    done
    mkdir -p "$output"
    output=$(cd "$output" && pwd)
    local log=$output/gpu-suite.log work threads=${SWIFT_TEST_THREADS:-8} most=${SWIFT_TEST_SECONDS:-180}
    work=$(mktemp -d)
    deadline=$((SECONDS + ${SWIFT_SUITE_SECONDS:-480}))
    export SWIFT_TEST_DEVICE=${SWIFT_TEST_DEVICE:-cuda:0} RUST_BACKTRACE=${RUST_BACKTRACE:-0} NO_COLOR=1
    {
        echo "GPU suite of $(field commit), $(date -u +%Y-%m-%dT%H:%MZ), tests on $SWIFT_TEST_DEVICE"
        nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no nvidia-smi"
    } | tee "$log"
    local kind name folder digest
    while IFS=$'\t' read -r kind name folder digest; do
        [ "$kind" = test ] || continue
        [ -z "$only" ] || [[ $only == *",$name,"* ]] || continue
        local begun=$SECONDS status=0 seconds=$most
        echo "== $name" | tee -a "$log"
        (cd "$root/$folder" && "$here/bin/$name" --list --include-ignored 2>>"$log") |
            sed -n 's/: test$//p' | sort >"$work/$name.all"
        if [ "${SWIFT_SUITE_MEASURE:-yes}" = no ]; then
            sed -i -E '/speed|bandwidth/d' "$work/$name.all"
        fi
        [ "$(left)" -lt "$seconds" ] && seconds=$(left)
        : >"$work/$name.log"
        # Tests that measure (named so) run after the others, one at a time, so that nothing runs beside them.
        if [ "$seconds" -gt 2 ]; then
            one "$name" "$folder" "$seconds" "$work/$name.log" --test-threads "$threads" --skip speed --skip bandwidth || status=$?
            [ "$status" -eq 0 ] || [ "$status" -eq 101 ] || echo "($name ended with status $status)" | tee -a "$work/$name.log"
        fi
        if grep -qE 'speed|bandwidth' "$work/$name.all" && [ "$(left)" -gt 2 ]; then
            [ "$(left)" -lt "$seconds" ] && seconds=$(left)
            status=0
            one "$name" "$folder" "$seconds" "$work/one" --test-threads 1 speed bandwidth || status=$?
            cat "$work/one" >>"$work/$name.log"
            [ "$status" -eq 0 ] || [ "$status" -eq 101 ] || echo "($name's measurements ended with status $status)" | tee -a "$work/$name.log"
        fi
        cat "$work/$name.log" >>"$log"
        sed -n 's/^test \(.*\) \.\.\. ok$/\1/p' "$work/$name.log" | sed 's/ - should panic$//' | sort -u >"$work/$name.done"
        echo $((SECONDS - begun)) >"$work/$name.seconds"
        printf '%s\t%s\n' "$name" "$folder" >>"$work/ran"
        echo "   $(wc -l <"$work/$name.done") of $(wc -l <"$work/$name.all") passed"
    done <"$manifest"

    # A kernel that fails takes its process's context along, and what hangs takes its process: what did not pass is tried
    # again, each test in a process of its own, so that only what fails by itself counts.
    local table total_failed=0 test passed alone failed missing skipped seconds line
    table=$(printf '%-28s %7s %7s %7s %7s %7s %8s' binary passed alone failed skipped 'not run' seconds)
    touch "$work/ran"
    while IFS=$'\t' read -r name folder; do
        passed=$(wc -l <"$work/$name.done") alone=0 failed=0 missing=0
        while read -r test; do
            seconds=$(left)
            [ "$seconds" -gt 40 ] && seconds=40
            if [ "$seconds" -le 2 ]; then
                missing=$((missing + 1))
                echo "not run, no time is left: $name $test" | tee -a "$log"
            elif one "$name" "$folder" "$seconds" "$work/one" --test-threads 1 --exact "$test"; then
                alone=$((alone + 1))
                echo "passed alone: $name $test" | tee -a "$log"
            else
                failed=$((failed + 1))
                { echo "-- alone: $name $test"; cat "$work/one"; } >>"$log"
                echo "FAILED: $name $test" | tee -a "$log"
                grep -m3 -A3 'panicked at' "$work/one" | cut -c1-400
            fi
        done < <(comm -23 "$work/$name.all" "$work/$name.done")
        skipped=$(grep -c '^skipped:' "$work/$name.log")
        seconds=$(cat "$work/$name.seconds")
        line=$(printf '%-28s %7d %7d %7d %7d %7d %8d' "$name" "$passed" "$alone" "$failed" "$skipped" "$missing" "$seconds")
        table+=$'\n'$line
        total_failed=$((total_failed + failed + missing))
    done <"$work/ran"
    {
        echo
        echo "Summary (alone: failed or unfinished beside others, passed in a process of its own; skipped: passed saying so)"
        echo "$table"
        [ "$total_failed" -eq 0 ] && echo "all passed" || echo "$total_failed failed or not run"
    } | tee -a "$log"
    # The log is kept with the project: paths of this machine mean nothing there.
    sed -i "s|$root|.|g; s|$here|.|g" "$log"
    rm -rf "$work"
    [ "$total_failed" -eq 0 ]
}

[ -f "$manifest" ] || die "$manifest is missing: run this from a folder made by \`cargo xtask gpu pack\`"
verb=${1:-}
[ $# -gt 0 ] && shift
case $verb in
    test) libraries; place; suite "$@" ;;
    bench) libraries; exec python3 "$here/tree/tests/peers/gpu.py" --benchmark "$here/bin/gpu_benchmark" "$@" ;;
    gpu_benchmark | swift) libraries; exec "$here/bin/$verb" "$@" ;;
    *) sed -n '2,/^set/p' "$here/run.sh" | sed '$d; s/^# \{0,1\}//'; exit 2 ;;
esac
