"""The C interface of libbpf that podwire uses, opened at run time (cffi, ABI mode: no compiler on the node).

cffi releases the interpreter lock around every call. libbpf reports details of a failure through one
process-wide print callback, always on the thread that made the failing call, so messages are collected
per thread.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from pathlib import Path
from typing import Any

import cffi

_DECLARATIONS = """
typedef unsigned char __u8; typedef unsigned int __u32; typedef unsigned long long __u64;
struct bpf_object; struct bpf_program; struct bpf_map; struct btf; struct ring_buffer;

void *libbpf_set_print(int (*fn)(int, const char *, void *));
const char *libbpf_version_string(void);
const char *libbpf_bpf_map_type_str(int t);
const char *libbpf_bpf_prog_type_str(int t);
int libbpf_num_possible_cpus(void);
int libbpf_probe_bpf_prog_type(int prog_type, const void *opts);
int libbpf_probe_bpf_map_type(int map_type, const void *opts);
int libbpf_probe_bpf_helper(int prog_type, int helper_id, const void *opts);

struct bpf_object *bpf_object__open_file(const char *path, const void *opts);
int bpf_object__load(struct bpf_object *obj);
void bpf_object__close(struct bpf_object *object);
struct btf *bpf_object__btf(const struct bpf_object *obj);
const void *btf__raw_data(const struct btf *btf, __u32 *size);
struct bpf_program *bpf_object__next_program(const struct bpf_object *obj, struct bpf_program *prog);
const char *bpf_program__name(const struct bpf_program *prog);
const char *bpf_program__section_name(const struct bpf_program *prog);
int bpf_program__fd(const struct bpf_program *prog);
int bpf_program__set_autoload(struct bpf_program *prog, bool autoload);
struct bpf_map *bpf_object__next_map(const struct bpf_object *obj, const struct bpf_map *map);
const char *bpf_map__name(const struct bpf_map *map);
int bpf_map__fd(const struct bpf_map *map);
int bpf_map__reuse_fd(struct bpf_map *map, int fd);
int bpf_map__type(const struct bpf_map *map);
__u32 bpf_map__max_entries(const struct bpf_map *map);
int bpf_map__set_max_entries(struct bpf_map *map, __u32 max_entries);
__u32 bpf_map__map_flags(const struct bpf_map *map);
__u32 bpf_map__key_size(const struct bpf_map *map);
__u32 bpf_map__value_size(const struct bpf_map *map);
__u32 bpf_map__btf_key_type_id(const struct bpf_map *map);
__u32 bpf_map__btf_value_type_id(const struct bpf_map *map);
const void *bpf_map__initial_value(struct bpf_map *map, size_t *psize);
bool bpf_map__is_internal(const struct bpf_map *map);
struct bpf_map *bpf_map__inner_map(struct bpf_map *map);
int bpf_map__set_value_size(struct bpf_map *map, __u32 size);
int bpf_map__set_pin_path(struct bpf_map *map, const char *path);

struct bpf_map_create_opts {
  size_t sz; __u32 btf_fd; __u32 btf_key_type_id; __u32 btf_value_type_id; __u32 btf_vmlinux_value_type_id;
  __u32 inner_map_fd; __u32 map_flags; __u64 map_extra; __u32 numa_node; __u32 map_ifindex; };
int bpf_map_create(int map_type, const char *name, __u32 key_size, __u32 value_size, __u32 max_entries,
                   const struct bpf_map_create_opts *opts);
int bpf_prog_load(int prog_type, const char *name, const char *license, const void *insns, size_t cnt,
                  const void *opts);
int bpf_map_update_elem(int fd, const void *key, const void *value, __u64 flags);
int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_delete_elem(int fd, const void *key);
int bpf_map_get_next_key(int fd, const void *key, void *next_key);
struct bpf_map_batch_opts { size_t sz; __u64 elem_flags; __u64 flags; };
int bpf_map_lookup_batch(int fd, void *in_batch, void *out_batch, void *keys, void *values, __u32 *count,
                         const struct bpf_map_batch_opts *opts);
int bpf_map_update_batch(int fd, const void *keys, const void *values, __u32 *count,
                         const struct bpf_map_batch_opts *opts);
int bpf_map_delete_batch(int fd, const void *keys, __u32 *count, const struct bpf_map_batch_opts *opts);

int bpf_obj_pin(int fd, const char *pathname);
int bpf_obj_get(const char *pathname);
int bpf_obj_get_info_by_fd(int fd, void *info, __u32 *info_len);
int bpf_prog_get_fd_by_id(__u32 id);
int bpf_map_get_fd_by_id(__u32 id);
int bpf_btf_get_fd_by_id(__u32 id);
int bpf_link_create(int prog_fd, int target_fd, int attach_type, const void *opts);
int bpf_link_update(int link_fd, int new_prog_fd, const void *opts);
int bpf_link_detach(int link_fd);

struct bpf_prog_info {
  __u32 type; __u32 id; __u8 tag[8]; __u32 jited_prog_len; __u32 xlated_prog_len;
  __u64 jited_prog_insns; __u64 xlated_prog_insns; __u64 load_time; __u32 created_by_uid;
  __u32 nr_map_ids; __u64 map_ids; char name[16]; __u32 ifindex; __u32 flags; __u64 netns_dev;
  __u64 netns_ino; __u32 nr_jited_ksyms; __u32 nr_jited_func_lens; __u64 jited_ksyms; __u64 jited_func_lens;
  __u32 btf_id;
  __u32 func_info_rec_size; __u64 func_info; __u32 nr_func_info; __u32 nr_line_info; __u64 line_info;
  __u64 jited_line_info; __u32 nr_jited_line_info; __u32 line_info_rec_size; __u32 jited_line_info_rec_size;
  __u32 nr_prog_tags; __u64 prog_tags; __u64 run_time_ns; __u64 run_cnt; __u64 recursion_misses;
  __u32 verified_insns; __u32 attach_btf_obj_id; __u32 attach_btf_id; __u32 pad; };
struct bpf_map_info {
  __u32 type; __u32 id; __u32 key_size; __u32 value_size; __u32 max_entries; __u32 map_flags; char name[16];
  __u32 ifindex; __u32 btf_vmlinux_value_type_id; __u64 netns_dev; __u64 netns_ino; __u32 btf_id;
  __u32 btf_key_type_id; __u32 btf_value_type_id; __u32 pad; __u64 map_extra; };
struct bpf_btf_info { __u64 btf; __u32 btf_size; __u32 id; __u64 name; __u32 name_len; __u32 kernel_btf; };
struct bpf_link_info { __u32 type; __u32 id; __u32 prog_id; __u32 pad;
  union {
    struct { __u32 ifindex; __u32 attach_type; } tcx;
    struct { __u64 cgroup_id; __u32 attach_type; } cgroup;
    __u64 reserved[7]; }; };

struct bpf_test_run_opts {
  size_t sz; const void *data_in; void *data_out; __u32 data_size_in; __u32 data_size_out;
  const void *ctx_in; void *ctx_out; __u32 ctx_size_in; __u32 ctx_size_out; __u32 retval; int repeat;
  __u32 duration; __u32 flags; __u32 cpu; __u32 batch_size; };
int bpf_prog_test_run_opts(int prog_fd, struct bpf_test_run_opts *opts);

struct bpf_tc_hook { size_t sz; int ifindex; int attach_point; __u32 parent; __u32 pad; };
struct bpf_tc_opts { size_t sz; int prog_fd; __u32 flags; __u32 prog_id; __u32 handle; __u32 priority;
  __u32 pad; };
int bpf_tc_hook_create(struct bpf_tc_hook *hook);
int bpf_tc_hook_destroy(struct bpf_tc_hook *hook);
int bpf_tc_attach(const struct bpf_tc_hook *hook, struct bpf_tc_opts *opts);
int bpf_tc_detach(const struct bpf_tc_hook *hook, const struct bpf_tc_opts *opts);
int bpf_tc_query(const struct bpf_tc_hook *hook, struct bpf_tc_opts *opts);

struct ring_buffer *ring_buffer__new(
  int map_fd, int (*fn)(void *, void *, size_t), void *ctx, const void *opts);
void ring_buffer__free(struct ring_buffer *rb);
int ring_buffer__poll(struct ring_buffer *rb, int timeout_ms);
int ring_buffer__consume(struct ring_buffer *rb);
int ring_buffer__epoll_fd(const struct ring_buffer *rb);

int vsnprintf(char *str, size_t size, const char *format, void *ap);
"""

ffi: Any = cffi.FFI()
ffi.cdef(_DECLARATIONS)

_LOG_BUFFER = 64 << 10
_VERIFIER_LOG_BUFFER = 32 << 20  # calloc'ed and touched only as far as it is written

_collected = threading.local()


class LibraryNotFound(Exception):  # noqa: N818 - reads as what happened
    """libbpf could not be opened."""


def candidates() -> list[str]:
    """Where libbpf is looked for, in order: ``PODWIRE_LIBBPF``, beside the interpreter's venv, the system."""
    override = os.environ.get("PODWIRE_LIBBPF")
    if override:
        return [override]
    beside = Path(sys.prefix) / "lib" / "libbpf.so.1"
    return [*([str(beside)] if beside.exists() else []), "libbpf.so.1"]


@functools.cache
def lib() -> Any:
    """libbpf, opened on first use so that importing podwire never needs it.

    Raises LibraryNotFound with every place tried and why it did not work.
    """
    problems = []
    for candidate in candidates():
        try:
            _open_companions(Path(candidate).parent)
            library = ffi.dlopen(candidate)
        except OSError as error:
            problems.append(str(error))
            continue
        library.libbpf_set_print(_print_callback)
        return library
    raise LibraryNotFound(
        "cannot open libbpf (" + "; ".join(problems) + "): install Debian's libbpf1, "
        "reinstall the podwire release, or point PODWIRE_LIBBPF at libbpf.so.1"
    )


_companions: list[Any] = []


def _open_companions(directory: Path) -> None:
    """Open what libbpf needs from beside it, if it is there: the linker then asks for it nowhere else."""
    companion = directory / "libelf.so.1"
    if directory.is_absolute() and companion.exists():
        _companions.append(ffi.dlopen(str(companion), ffi.RTLD_NOW | ffi.RTLD_GLOBAL))


@functools.cache
def _libc() -> Any:
    return ffi.dlopen(None)


@ffi.callback("int(int, const char *, void *)")  # type: ignore[untyped-decorator]
def _print_callback(level: int, fmt: Any, arguments: Any) -> int:
    """Format like printf: a va_list parameter is a pointer in the calling conventions of x86-64 and arm64."""
    sink: list[str] | None = getattr(_collected, "messages", None)
    if sink is None or level > 1:  # LIBBPF_WARN=0, INFO=1, DEBUG=2
        return 0
    size = _VERIFIER_LOG_BUFFER if b"LOG --" in ffi.string(fmt) else _LOG_BUFFER
    buffer = ffi.new("char[]", size)
    _libc().vsnprintf(buffer, size, fmt, arguments)
    sink.append(ffi.string(buffer).decode(errors="replace"))
    return 0


class collect_messages:  # noqa: N801 - used like a function
    """``with collect_messages() as messages:`` gathers what libbpf prints on this thread meanwhile."""

    def __enter__(self) -> list[str]:
        self._outer: list[str] | None = getattr(_collected, "messages", None)
        messages: list[str] = []
        _collected.messages = messages
        return messages

    def __exit__(self, *_: object) -> None:
        _collected.messages = self._outer


def last_errno(result: int) -> int:
    """The error number of a failed call: libbpf 1.x returns it negated, wrapped libc calls set errno."""
    return -result if result < -1 else int(ffi.errno)
