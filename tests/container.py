"""The system call filter of a container engine, for a process without capabilities, as BPF.

The profile is the one that Podman and Buildah use (`/usr/share/containers/seccomp.json`); Docker's and containerd's are the
same list in other versions. What one of them refuses and this one does not is taken out of it, so that what runs under
the result runs under all three. libseccomp compiles it, as it does for the engines.
"""

import ctypes
import errno
import json

PROFILE = "/usr/share/containers/seccomp.json"

# What Docker's profile (or containerd's) gives only to containers with a capability, or not at all.
ONLY_WITH_CAPABILITIES = {
    "fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree pivot_root umount umount2 unshare",
    "get_mempolicy mbind set_mempolicy",
    "keyctl ptrace pidfd_getfd process_vm_readv process_vm_writev reboot syslog",
}
NAMESPACES = 0x7E020000

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
COMPARE = {"SCMP_CMP_NE": 1, "SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}
X86, X32 = 0x40000003, 0x4000003E


class Argument(ctypes.Structure):
    """`struct scmp_arg_cmp`."""

    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def applies(rule):
    """Whether a rule of the profile holds on this machine for a process without capabilities."""
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("caps") or "amd64" in excludes.get("arches", []):
        return False
    return "amd64" in includes.get("arches", ["amd64"])


def argument(condition):
    """A condition of the profile; a masked comparison has its mask first there as here."""
    op = COMPARE[condition["op"]]
    return Argument(condition["index"], op, condition["value"], condition.get("valueTwo", 0))


def rules(profile):
    """(names, what they get, conditions) of everything that is not refused by default."""
    stricter = {name for names in ONLY_WITH_CAPABILITIES for name in names.split()} | {"clone", "clone3"}
    for rule in profile["syscalls"]:
        if applies(rule) and rule["action"] == "SCMP_ACT_ALLOW":
            names = [name for name in rule["names"] if name not in stricter]
            yield names, ALLOW, [argument(condition) for condition in rule.get("args") or []]
    yield ["clone"], ALLOW, [Argument(0, COMPARE["SCMP_CMP_MASKED_EQ"], NAMESPACES, 0)]
    # Its flags are in memory; this answer makes C libraries use clone.
    yield ["clone3"], ERRNO | errno.ENOSYS, []


def compile_to(path, profile=PROFILE):
    """Writes the filter to a file."""
    lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_init.argtypes = [ctypes.c_uint32]
    context = ctypes.c_void_p(lib.seccomp_init(ERRNO | errno.EPERM))

    def done(result, what):
        if result < 0:
            raise OSError(-result, f"{what}: {errno.errorcode.get(-result, result)}")

    for arch in (X86, X32):
        done(lib.seccomp_arch_add(context, ctypes.c_uint32(arch)), "arch")
    with open(profile) as f:
        parsed = json.load(f)
    for names, action, conditions in rules(parsed):
        for name in names:
            number = lib.seccomp_syscall_resolve_name(name.encode())
            if number == -1:
                continue  # newer than the library, which the engines pass over too
            array = (Argument * len(conditions))(*conditions)
            added = lib.seccomp_rule_add_array(context, ctypes.c_uint32(action), number, len(conditions), array)
            if added != -errno.EEXIST:
                done(added, name)
    with open(path, "wb") as f:
        done(lib.seccomp_export_bpf(context, f.fileno()), "export")
    lib.seccomp_release(context)
