"""The system calls a job may make, by name. What is not here answers ENOSYS, as on a kernel without it.

Left out on purpose: ptrace and process_vm_*, keyrings, userfaultfd, perf, bpf, io_uring, SysV and POSIX IPC, mlock,
file handles, mounts, namespaces, modules, clocks being set, scheduler classes, quotas, swap, reboot. Calls that
are allowed only with certain arguments are in `seccomp`.
"""

_ALLOWED = """
    accept accept4 access alarm arch_prctl bind brk cachestat capget capset chdir chmod chown clock_getres
    clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create
    epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group
    faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync
    fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue
    futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid geteuid getgid
    getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid
    getrlimit get_robust_list getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioprio_get ioprio_set kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listxattr llistxattr
    lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier memfd_create mincore mkdir mkdirat
    mmap mprotect mremap msync munmap nanosleep newfstatat open openat openat2 pause pidfd_open
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll pread64 preadv preadv2 prlimit64
    pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg
    removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity sched_getattr
    sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
    sched_setaffinity sched_yield select sendfile sendmmsg sendmsg sendto setfsgid setfsuid setgid setgroups
    setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit set_robust_list setsid
    setsockopt set_tid_address setuid setxattr shutdown sigaltstack signalfd signalfd4 splice stat statfs statx
    symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
    timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill
    truncate umask uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid write writev
"""
#: Allowed whatever the arguments.
ALLOWED = tuple(_ALLOWED.split())

#: `ioctl` requests, low 32 bits: terminals' getters and settings, queue lengths, close-on-exec, cloning of files.
IOCTLS = (
    0x5401,  # TCGETS
    0x5402,  # TCSETS
    0x5403,  # TCSETSW
    0x5404,  # TCSETSF
    0x5409,  # TCSBRK
    0x540B,  # TCFLSH
    0x540E,  # TIOCSCTTY
    0x540F,  # TIOCGPGRP
    0x5410,  # TIOCSPGRP
    0x5411,  # TIOCOUTQ
    0x5413,  # TIOCGWINSZ
    0x5414,  # TIOCSWINSZ
    0x541B,  # FIONREAD
    0x5420,  # TIOCPKT
    0x5421,  # FIONBIO
    0x5422,  # TIOCNOTTY
    0x5429,  # TIOCGSID
    0x5450,  # FIONCLEX
    0x5451,  # FIOCLEX
    0x5452,  # FIOASYNC
    0x80045430,  # TIOCGPTN
    0x40045431,  # TIOCSPTLCK
    0x5441,  # TIOCGPTPEER
    0x40049409,  # FICLONE
    0x4020940D,  # FICLONERANGE
    0x80086601,  # FS_IOC_GETFLAGS
    0xC020660B,  # FS_IOC_FIEMAP
    2,  # FIGETBSZ
)
#: `ioctl` requests that put bytes into a terminal's input; EPERM, so that a program sees it was refused.
IOCTLS_REFUSED = (
    0x5412,  # TIOCSTI
    0x541C,  # TIOCLINUX
)
#: `prctl` options. Not PR_SET_DUMPABLE: it would hide a process's open files from a worker that is not root.
PRCTLS = (
    1,  # PR_SET_PDEATHSIG
    2,  # PR_GET_PDEATHSIG
    3,  # PR_GET_DUMPABLE
    7,  # PR_GET_KEEPCAPS
    15,  # PR_SET_NAME
    16,  # PR_GET_NAME
    21,  # PR_GET_SECCOMP
    23,  # PR_CAPBSET_READ
    27,  # PR_GET_SECUREBITS
    29,  # PR_SET_TIMERSLACK
    30,  # PR_GET_TIMERSLACK
    36,  # PR_SET_CHILD_SUBREAPER
    37,  # PR_GET_CHILD_SUBREAPER
    38,  # PR_SET_NO_NEW_PRIVS
    39,  # PR_GET_NO_NEW_PRIVS
    41,  # PR_SET_THP_DISABLE
    42,  # PR_GET_THP_DISABLE
    0x53564D41,  # PR_SET_VMA
)
#: `personality` values: plain Linux, and asking.
PERSONALITIES = (0x0, 0xFFFFFFFF)
#: Flags of `clone` that make a namespace. (`clone3` keeps its flags in memory, where a filter cannot look: ENOSYS,
#: after which the C library uses `clone`.)
NAMESPACE_FLAGS = 0x7E020000
#: `ioctl` requests of a job with a GPU, as (mask, value): all of type 'F', which NVIDIA's driver takes for its own
#: (frame buffers have it too, and no job sees one), and those of unified memory, which have bare numbers.
IOCTLS_GPU = (
    (0xFF00, 0x4600),
    (0xFFFFFF00, 0),
    (0xFFFFFFFF, 0x30000001),  # UVM_INITIALIZE
    (0xFFFFFFFF, 0x30000002),  # UVM_DEINITIALIZE
)
