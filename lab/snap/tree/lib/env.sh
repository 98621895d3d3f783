# Sourced by the commands and services of the snap: the environment that the processes started by the snap run in.

# use_snap_env puts the snap's own programs and libraries first, as Canonical's snap does. Everything that containerd
# starts, CNI plugins included, inherits this.
use_snap_env() {
  local current=/snap/microk8s/current triplet=x86_64-linux-gnu host_path=$PATH dir
  local path=
  for dir in usr/sbin usr/bin sbin bin; do path+=$current/$dir:; done
  for dir in usr/sbin usr/bin sbin bin; do path+=$SNAP/$dir:; done
  export PATH=$path${host_path:-/usr/sbin:/usr/bin:/sbin:/bin}
  local libraries=${SNAP_LIBRARY_PATH:-}
  for dir in lib usr/lib "lib/$triplet" "usr/lib/$triplet"; do libraries+=${libraries:+:}$SNAP/$dir; done
  export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export PYTHONPATH=$SNAP/usr/lib/python3.8:$SNAP/lib/python3.8/site-packages:$SNAP/usr/lib/python3/dist-packages
  export PYTHONNOUSERSITE=false
  export OPENSSL_CONF=$SNAP/etc/ssl/openssl.cnf
  export XDG_RUNTIME_DIR=$SNAP_COMMON/run
  export LC_ALL=${LC_ALL:-C.UTF-8} LANG=${LANG:-C.UTF-8}
  mkdir -p "$XDG_RUNTIME_DIR"
}

# snap_python runs a program of the snap's Python library with the machine's interpreter, isolated from the above.
snap_python() {
  exec /usr/bin/python3 -I -S "$SNAP/lib/mk8s" "$@"
}

# locked NAME: is the flag file set?
locked() {
  [ -e "$SNAP_DATA/var/lock/$1" ]
}

# args_of COMPONENT: print the text of its argument file, to be expanded as a bash array literal.
args_of() {
  cat "$SNAP_DATA/args/$1"
}

# source_env NAME: export what an *-env file of the args directory sets.
source_env() {
  set -a
  # shellcheck disable=SC1090
  [ ! -e "$SNAP_DATA/args/$1" ] || . "$SNAP_DATA/args/$1"
  set +a
}

# raise_sysctl PATH VALUE: set it unless it is as high already. What cannot be set is reported and left.
raise_sysctl() {
  local file=/proc/sys/$1
  if [ "$(cat "$file")" -lt "$2" ] && ! echo "$2" >"$file"; then
    echo "cannot raise $1 to $2" >&2
  fi
}
