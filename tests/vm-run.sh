#!/bin/bash
# Runs a command in a throw-away VM on this machine's own files, to try it on a kernel with other cgroups.
# The kernel is Debian's; the guest sees the host's / read-only under an overlay, so what it writes is gone when it ends.
# qemu emulates the processor (no KVM is needed), which makes everything about ten to twenty times slower.
set -eu

usage() {
  cat <<'END'
vm-run.sh [OPTION...] -- COMMAND [ARG...]    one word: a bash command line; more: a program and its arguments
  --cgroup KIND   v2 (default): cgroup2 on /sys/fs/cgroup; v1: v1 controllers only; hybrid: v1 controllers and an
                  empty cgroup2 on /sys/fs/cgroup/unified
  --in-cgroup P   start in the cgroup P, with all controllers (v2 only; default: the root cgroup)
  --user          run as uid 1000, with HOME and XDG_RUNTIME_DIR; --in-cgroup is delegated to it
  --env K=V       set an environment variable (any number of times)
  --share DIR     show the host's DIR at the same place though it is under /tmp, /var/tmp or /run, which the guest
                  has of its own (any number of times; the current directory is always shown)
  --fresh DIR     an empty DIR on a real file system, for overlayfs, which takes no upperdir on the guest's /
                  (any number of times; /tmp, /var/tmp, /scratch and uid 1000's home are such)
  --out DIR       what the command leaves in the guest's /out is copied into the host's DIR
  --net           eth0 with qemu's user-mode network, 10.0.2.15 behind 10.0.2.2
  --shared        make / a shared mount, as systemd does (default: private)
  --cpus N        processors (1, which is the cheapest to emulate)
  --mem MB        memory (1024)
  --disk MB       size of the disk that takes all that is written (4096; a sparse file)
  --timeout S     end the VM after S seconds (300)
  --verbose       the kernel's console and times on stderr
Exit status: the command's; 124 timed out; 125 the VM failed.
Needs root and Debian's qemu-system-x86, busybox-static, kmod, e2fsprogs, node. The kernel is downloaded by apt, once,
into ${XDG_CACHE_HOME:-~/.cache}/barehand-vm.
END
}
wrong() {
  echo "vm-run: $*" >&2
  echo "Try 'vm-run.sh --help'." >&2
  exit 2
}
fail() {
  echo "vm-run: $*" >&2
  exit 125
}

cgroup=v2 in_cgroup= user= net= shared= verbose= out= cpus=1 mem=1024 disk=4096 timeout=300
envs=() shares=() fresh=()
while [ $# -gt 0 ]; do
  case $1 in
    --help) usage && exit 0 ;;
    --) shift && break ;;
    --user | --net | --shared | --verbose) declare "${1#--}=1" && shift && continue ;;
    --cgroup | --in-cgroup | --env | --share | --fresh | --out | --cpus | --mem | --disk | --timeout) ;;
    *) wrong "unknown option $1" ;;
  esac
  [ $# -gt 1 ] || wrong "$1 needs a value"
  case $1 in
    --in-cgroup) in_cgroup=${2#/} ;;
    --env) envs+=("$2") ;;
    --share) shares+=("$(realpath "$2")") ;;
    --fresh) fresh+=("$2") ;;
    --out) out=$(realpath -m "$2") ;;
    *) declare "${1#--}=$2" ;;
  esac
  shift 2
done
[ $# -gt 0 ] || wrong 'a command is missing'
case $cgroup in v1 | v2 | hybrid) ;; *) wrong "--cgroup is v1, v2 or hybrid, not $cgroup" ;; esac
[ -z "$in_cgroup" ] || [ $cgroup = v2 ] || wrong '--in-cgroup is for v2'
case $PWD in /tmp/* | /var/tmp/* | /run/*) shares+=("$PWD") ;; esac

parts=$(dirname "$(readlink -f "$0")")/vm
cache=${XDG_CACHE_HOME:-$HOME/.cache}/barehand-vm
export PATH="$PATH:/usr/sbin:/sbin"

# ---- what must be there
[ "$(id -u)" = 0 ] || fail 'must be root, to show the VM this machine'\''s files: sudo'
for program in qemu-system-x86_64 busybox modprobe mke2fs node; do
  command -v $program >/dev/null || fail "$program is missing: apt-get install qemu-system-x86 busybox-static kmod e2fsprogs nodejs"
done
busybox=$(command -v busybox)
! ldd "$busybox" >/dev/null 2>&1 || fail "$busybox is not static: apt-get install busybox-static"
for virtiofsd in /usr/lib/qemu/virtiofsd /usr/libexec/virtiofsd ''; do [ ! -x "$virtiofsd" ] || break; done
[ "$virtiofsd" ] || fail 'virtiofsd is missing: apt-get install qemu-system-common, or virtiofsd'

# ---- the kernel and the initramfs: made once, and again when their sources here are newer
download_kernel() {
  local package
  newest() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1; }
  download() { package=$(newest) && [ "$package" ] && apt-get -o APT::Sandbox::User=root download "$package"; }
  mkdir -p "$cache/deb"
  (cd "$cache/deb" && { download || { apt-get update -qq && download; }; })
}

make_initramfs() {
  local root=$cache/initramfs.d version=$1 module
  rm -rf "$root"
  mkdir -p "$root"/{bin,modules,proc,sys,dev,lower,disk,newroot}
  cp "$busybox" "$root/bin/busybox"
  install -m 755 "$parts/init" "$root/init"
  for module in virtio_pci virtiofs overlay virtio_console virtio_blk crc32c_generic ext4 virtio_net; do
    modprobe -d "$cache/kernel" -S "$version" -D $module | sed -n 's/^insmod \([^ ]*\).*/\1/p'
  done | awk '!seen[$0]++' | while read -r module; do
    cp "$module" "$root/modules/"
    echo "${module##*/}" >>"$root/modules/list"
  done
  pack "$root" . >"$cache/initramfs.new"
  mv "$cache/initramfs.new" "$cache/initramfs"
}

pack() { (cd "$1" && find "$2" | busybox cpio -o -H newc 2>/dev/null); } # FOLDER PATH

prepare() {
  local version
  compgen -G "$cache/deb/linux-image-*.deb" >/dev/null || download_kernel
  rm -rf "$cache/kernel"
  dpkg -x "$cache"/deb/linux-image-*.deb "$cache/kernel"
  version=$(ls "$cache/kernel/lib/modules")
  depmod -b "$cache/kernel" "$version"
  node "$parts/extract-vmlinux.mjs" "$cache/kernel/boot/vmlinuz-$version" "$cache/vmlinux"
  make_initramfs "$version"
}

mkdir -p "$cache"
(
  set -e
  flock 9
  [ "$cache/initramfs" -nt "$0" ] && [ "$cache/initramfs" -nt "$parts/init" ] || prepare >&2
) 9>"$cache/lock" || fail 'cannot make the kernel and the initramfs'

# ---- this run's part of the initramfs: /vm
run=$(mktemp -d "$cache/run.XXXXXX")
clean_up() {
  local child
  for child in $(jobs -pr); do kill "$child" 2>/dev/null || true; done
  wait
  rm -rf "$run"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

vm=$run/initramfs/vm
mkdir -p "$vm"
cp "$parts/main" "$vm/main"
modules=$(echo "$cache"/kernel/lib/modules/*)
for name in cgroup in_cgroup user net shared verbose out modules; do printf '%s=%q\n' $name "${!name}"; done >"$vm/conf"
printf '%s\n' "${shares[@]}" | sed '/^$/d' | sort -u >"$vm/shares"
printf '%s\n' "${fresh[@]}" | sed '/^$/d' >"$vm/fresh"
{
  echo 'export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
  echo 'export HOME=/root USER=root LOGNAME=root SHELL=/bin/bash LANG=C.UTF-8 TERM=dumb'
  [ -z "$user" ] || echo 'IFS=: read -r USER _ _ _ _ HOME _ < <(getent passwd 1000)
LOGNAME=$USER
export XDG_RUNTIME_DIR=/run/user/1000'
  [ ${#envs[@]} = 0 ] || printf 'export %q\n' "${envs[@]}"
  printf 'cd %q || exit 126\nexec' "$PWD"
  [ -z "$user" ] || printf ' setpriv --reuid 1000 --regid 1000 --clear-groups'
  [ $# -gt 1 ] || set -- /bin/bash -c "$1"
  printf ' %q' "$@"
  echo
} >"$vm/command"
{
  cat "$cache/initramfs"
  pack "$run/initramfs" vm
} >"$run/initrd"

# ---- qemu
# threads of the emulator that wait for each other cost more than a second processor brings
if [ "$cpus" = 1 ]; then thread=single; else thread=multi; fi
# without erms and fsrm the guest copies by eight bytes, not by "rep movsb", which is emulated byte by byte
qemu=(qemu-system-x86_64 -name vm-run -machine q35,memory-backend=mem -accel tcg,thread=$thread -smp "$cpus" -m "$mem"
  -cpu "max,la57=off,erms=off,fsrm=off" -nodefaults -no-user-config -no-reboot -display none
  -object "memory-backend-memfd,id=mem,size=${mem}M,share=on"
  -kernel "$cache/vmlinux" -initrd "$run/initrd" -serial "file:$run/console"
  -chardev "socket,id=hostfs,path=$run/virtiofs" -device vhost-user-fs-pci,queue-size=1024,chardev=hostfs,tag=hostfs
  -drive "if=none,id=disk,file=$run/disk,format=raw,cache=unsafe,discard=unmap" -device virtio-blk-pci,drive=disk
  -device virtio-serial-pci)
for port in out err status ${out:+tar}; do
  qemu+=(-chardev "file,id=$port,path=$run/$port" -device "virtserialport,chardev=$port,name=$port")
done
[ -z "$net" ] || qemu+=(-netdev user,id=net -device virtio-net-pci,netdev=net)

kernel="console=ttyS0 panic=-1 reboot=t mitigations=off nokaslr audit=0 lsm=landlock,yama psi=1 random.trust_cpu=on
  cryptomgr.notests no_timer_check tsc=reliable rcupdate.rcu_expedited=1 8250.nr_uarts=1 net.ifnames=0"
# the guest's clock is the host's: say how fast it ticks, since measuring that on a busy host fails or is wrong
mhz=$(sed -n 's/^bogomips[^0-9]*\([0-9]*\).*/\1/p' /proc/cpuinfo | head -n 1)
[ -z "$mhz" ] || kernel+=" tsc_early_khz=$((mhz * 500)) lpj=$((mhz * 2000))"
[ $cgroup != v2 ] || kernel+=' cgroup_no_v1=all,named'
if [ "$verbose" ]; then kernel+=' loglevel=6'; else kernel+=' quiet loglevel=3'; fi
qemu+=(-append "$(echo $kernel)")

# virtiofsd shows a private, read-only copy of the mount tree, real file systems only
serve_files() {
  exec unshare --mount --propagation private /bin/bash -ec '
    run=$1 root=$1/root
    mkdir -p "$root"
    mount --bind / "$root"
    while read -r _ point type _; do
      case $type in ext* | xfs | btrfs | overlay | zfs | f2fs) ;; *) continue ;; esac
      case $point in / | /proc* | /sys* | /dev* | /run* | "$run"*) continue ;; esac
      point=$(printf %b "$point")
      [ ! -d "$point" ] || { mount --bind "$point" "$root$point" && mount -o remount,bind,ro "$root$point"; } || true
    done < <(cat /proc/self/mounts)
    mount -o remount,bind,ro "$root"
    shift
    exec "$@"' - "$run" "$virtiofsd" --socket-path="$run/virtiofs" -o source="$run/root" -o cache=always \
    -o sandbox=chroot -o no_posix_lock
}

end() { { kill "$1" && wait "$1"; } 2>/dev/null || true; }

boot() {
  local files reader_out reader_err machine watchdog
  rm -f "$run"/{out,err,tar,virtiofs,disk}
  mkfifo "$run/out" "$run/err"
  : >"$run/status"
  : >"$run/console"
  truncate -s "${disk}M" "$run/disk"
  mke2fs -q -t ext4 -F -O ^has_journal -E lazy_itable_init=1,nodiscard "$run/disk"
  serve_files >"$run/virtiofsd.log" 2>&1 &
  files=$!
  for _ in $(seq 500); do [ ! -S "$run/virtiofs" ] || break && sleep 0.02; done
  cat "$run/out" &
  reader_out=$!
  cat "$run/err" >&2 &
  reader_err=$!
  timeout -k 5 "$timeout" "${qemu[@]}" </dev/null >"$run/qemu.log" 2>&1 &
  machine=$!
  [ -z "$verbose" ] || tail -f --pid=$machine "$run/console" >&2 &
  (for _ in $(seq 90); do sleep 1 && [ ! -s "$run/status" ] || exit 0; done && kill $machine) 2>/dev/null &
  watchdog=$!
  qemu_status=0
  { wait $machine || qemu_status=$?; } 2>/dev/null
  end $watchdog
  # had qemu died before it opened the FIFOs, their readers would wait for ever
  : <>"$run/out" <>"$run/err"
  wait $reader_out $reader_err
  end $files
}

# on a busy machine a few boots in a thousand hang or crash qemu: as long as the command has not started, try again
for try in 1 2 3; do
  boot
  [ ! -s "$run/status" ] || break
  echo "vm-run: the VM did not come up (try $try, qemu's exit status $qemu_status)" >&2
  [ "$verbose" ] || tail -n 20 "$run/qemu.log" "$run/virtiofsd.log" "$run/console" >&2
done
status=$(sed -n 's/^status //p' "$run/status")
if [ -z "$status" ]; then
  case $qemu_status in 124 | 137) echo "vm-run: timed out after $timeout s" >&2 && exit 124 ;; esac
  [ "$verbose" ] || tail -n 40 "$run/qemu.log" "$run/console" >&2
  fail "the VM gave no exit status (qemu's: $qemu_status)"
fi
[ -z "$out" ] || { mkdir -p "$out" && tar -C "$out" -xf "$run/tar"; }
exit "$status"
