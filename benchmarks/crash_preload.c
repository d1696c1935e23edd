/* Counts the calls by which a process changes files below some folders, and lets one of them go wrong.
 *
 * Loaded by LD_PRELOAD; does nothing until crash_watch() is called, and nothing in children. Every
 * function of the C library that opens, writes, flushes, renames, makes or removes files is replaced
 * by one that looks at the path first and then makes the system call itself. What the C library does
 * inside itself (a FILE's buffer, mkdtemp) does not come through here, nor what writes through mapped
 * memory: strace tells what was missed.
 *
 * The log has a line per call, before it is made: kind, path, bytes (of a write), second path (of a
 * rename or link), between tabs.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define PATHS (2 * PATH_MAX) /* a folder and a path relative to it */

enum how { HOW_KILL, HOW_TEAR, HOW_SHORT, HOW_ONCE, HOW_ON }; /* as in crash_driver.py */
enum fate { GO, FAIL, HALF };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pid_t watched; /* the process whose calls are counted; 0: none */
static char folders[4][PATH_MAX];
static int num_folders, log_fd = -1;
static long count, fault_at = -1;
static enum how fault_how;
static int fault_errno;
static char fault_kinds[256]; /* ",open,write," */

/* Count this process's calls below the folders, which are separated by newlines. */
EXPORT void crash_watch(const char *below, int log)
{
    char copy[sizeof folders], *rest = copy, *one;
    snprintf(copy, sizeof copy, "%s", below);
    for (num_folders = 0; num_folders < 4 && (one = strsep(&rest, "\n")); num_folders++)
        snprintf(folders[num_folders], PATH_MAX, "%s", one);
    log_fd = log;
    watched = getpid();
}

/* Let the call number `at` (from 0) go wrong; HOW_ON: also all later ones, if of one of `kinds`. */
EXPORT void crash_fault(long at, int how, int error, const char *kinds)
{
    fault_how = (enum how)how;
    fault_errno = error;
    snprintf(fault_kinds, sizeof fault_kinds, "%s", kinds);
    fault_at = at;
}

static int is_watched(const char *path)
{
    for (int i = 0; i < num_folders; i++) {
        size_t n = strlen(folders[i]);
        if (!strncmp(path, folders[i], n) && (path[n] == '/' || path[n] == '\0'))
            return 1;
    }
    return 0;
}

/* The path of an open file; empty where it has none. */
static void path_of(int fd, char *out)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = '\0';
}

static void resolve(int dir, const char *path, char *out)
{
    if (path[0] == '/') {
        snprintf(out, PATHS, "%s", path);
        return;
    }
    if (dir != AT_FDCWD)
        path_of(dir, out);
    else if (syscall(SYS_getcwd, out, PATH_MAX) < 0)
        out[0] = '\0';
    size_t n = strlen(out);
    snprintf(out + n, PATHS - n, "/%s", path);
}

static void die(void)
{
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;)
        syscall(SYS_pause);
}

/* Count a call, and say what is to become of it; errno is set where it is to fail. */
static enum fate fate_of(const char *kind, const char *path, size_t bytes, const char *second)
{
    char line[3 * PATHS], listed[32];
    enum fate fate = GO;
    if (!is_watched(path) && !(second && is_watched(second)))
        return GO;
    pthread_mutex_lock(&lock);
    int n = snprintf(line, sizeof line, "%s\t%s\t%zu\t%s\n", kind, path, bytes, second ? second : "");
    syscall(SYS_write, log_fd, line, (size_t)n);
    long number = count++;
    snprintf(listed, sizeof listed, ",%s,", kind);
    if (fault_at >= 0 && number == fault_at) {
        if (fault_how == HOW_KILL)
            die();
        fate = fault_how == HOW_TEAR || fault_how == HOW_SHORT ? HALF : FAIL;
    } else if (fault_at >= 0 && number > fault_at && fault_how == HOW_ON) {
        fate = strstr(fault_kinds, listed) ? FAIL : GO;
    }
    pthread_mutex_unlock(&lock);
    if (fate == FAIL)
        errno = fault_errno;
    return fate;
}

static int fails(const char *kind, int dir, const char *path)
{
    char full[PATHS];
    if (getpid() != watched)
        return 0;
    int before = errno;
    resolve(dir, path, full);
    errno = before;
    return fate_of(kind, full, 0, NULL) == FAIL;
}

static int fails_two(const char *kind, int dir, const char *path, int second_dir, const char *second)
{
    char full[PATHS], second_full[PATHS];
    if (getpid() != watched)
        return 0;
    int before = errno;
    resolve(dir, path, full);
    resolve(second_dir, second, second_full);
    errno = before;
    return fate_of(kind, full, 0, second_full) == FAIL;
}

static enum fate fate_of_fd(const char *kind, int fd, size_t bytes)
{
    char full[PATHS];
    if (getpid() != watched)
        return GO;
    int before = errno;
    path_of(fd, full);
    errno = before;
    return fate_of(kind, full, bytes, NULL);
}

/* Bytes that may be written of those asked for; -1: none, the call fails. */
static ssize_t allowed(int fd, size_t bytes)
{
    enum fate fate = fate_of_fd("write", fd, bytes);
    return fate == FAIL ? -1 : fate == HALF ? (ssize_t)(bytes / 2) : (ssize_t)bytes;
}

/* The result of a write, if the process is to live on with it. */
static ssize_t written(size_t asked, ssize_t let, ssize_t result)
{
    if ((size_t)let < asked && fault_how == HOW_TEAR)
        die();
    return result;
}

/* ---- open ---- */

static int open_at(int dir, const char *path, int flags, mode_t mode)
{
    int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
    if (fails(writes ? "create" : "open", dir, path))
        return -1;
    return (int)syscall(SYS_openat, dir, path, flags, mode);
}

static mode_t mode_in(int flags, va_list args)
{
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(args, mode_t) : 0;
}

#define OPEN(name)                                                                                     \
    EXPORT int name(const char *path, int flags, ...)                                                  \
    {                                                                                                  \
        va_list args;                                                                                  \
        va_start(args, flags);                                                                         \
        mode_t mode = mode_in(flags, args);                                                            \
        va_end(args);                                                                                  \
        return open_at(AT_FDCWD, path, flags, mode);                                                   \
    }
#define OPENAT(name)                                                                                   \
    EXPORT int name(int dir, const char *path, int flags, ...)                                         \
    {                                                                                                  \
        va_list args;                                                                                  \
        va_start(args, flags);                                                                         \
        mode_t mode = mode_in(flags, args);                                                            \
        va_end(args);                                                                                  \
        return open_at(dir, path, flags, mode);                                                        \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* what the macros of _FORTIFY_SOURCE call */
EXPORT int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
EXPORT int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
EXPORT int __openat_2(int dir, const char *path, int flags) { return open_at(dir, path, flags, 0); }
EXPORT int __openat64_2(int dir, const char *path, int flags) { return open_at(dir, path, flags, 0); }

EXPORT int creat(const char *path, mode_t mode)
{
    return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
EXPORT int creat64(const char *path, mode_t mode) { return creat(path, mode); }

EXPORT DIR *opendir(const char *path)
{
    if (fails("open", AT_FDCWD, path))
        return NULL;
    return ((DIR * (*)(const char *)) dlsym(RTLD_NEXT, "opendir"))(path);
}

/* ---- write ---- */

EXPORT ssize_t write(int fd, const void *data, size_t bytes)
{
    ssize_t let = allowed(fd, bytes);
    return let < 0 ? -1 : written(bytes, let, syscall(SYS_write, fd, data, (size_t)let));
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t bytes, off_t where)
{
    ssize_t let = allowed(fd, bytes);
    return let < 0 ? -1 : written(bytes, let, syscall(SYS_pwrite64, fd, data, (size_t)let, where));
}
EXPORT ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t where)
{
    return pwrite(fd, data, bytes, where);
}

/* Several buffers; half of them is half of the first. `where` -1: at the file's own position. */
static ssize_t write_all(int fd, const struct iovec *parts, int num, off_t where, int flags)
{
    size_t bytes = 0;
    for (int i = 0; i < num; i++)
        bytes += parts[i].iov_len;
    ssize_t let = allowed(fd, bytes);
    if (let < 0)
        return -1;
    struct iovec first = {.iov_base = num ? parts[0].iov_base : NULL,
                          .iov_len = num ? parts[0].iov_len / 2 : 0};
    int whole = (size_t)let == bytes;
    return written(bytes, let,
                   syscall(SYS_pwritev2, fd, whole ? parts : &first, whole ? num : 1, where, 0L, flags));
}

EXPORT ssize_t writev(int fd, const struct iovec *parts, int num)
{
    return write_all(fd, parts, num, -1, 0);
}
EXPORT ssize_t pwritev(int fd, const struct iovec *parts, int num, off_t where)
{
    return write_all(fd, parts, num, where, 0);
}
EXPORT ssize_t pwritev64(int fd, const struct iovec *parts, int num, off64_t where)
{
    return write_all(fd, parts, num, where, 0);
}

EXPORT ssize_t pwritev2(int fd, const struct iovec *parts, int num, off_t where, int flags)
{
    return write_all(fd, parts, num, where, flags);
}
EXPORT ssize_t pwritev64v2(int fd, const struct iovec *parts, int num, off64_t where, int flags)
{
    return write_all(fd, parts, num, where, flags);
}

EXPORT ssize_t sendfile(int to, int from, off_t *where, size_t bytes)
{
    ssize_t let = allowed(to, bytes);
    return let < 0 ? -1 : written(bytes, let, syscall(SYS_sendfile, to, from, where, (size_t)let));
}
EXPORT ssize_t sendfile64(int to, int from, off64_t *where, size_t bytes)
{
    return sendfile(to, from, where, bytes);
}

EXPORT ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *where, size_t bytes, unsigned flags)
{
    ssize_t let = allowed(to, bytes);
    if (let < 0)
        return -1;
    return written(bytes, let, syscall(SYS_copy_file_range, from, at, to, where, (size_t)let, flags));
}

/* ---- sizes, durability, what is said of a file ---- */

EXPORT int ftruncate(int fd, off_t bytes)
{
    return fate_of_fd("truncate", fd, 0) == FAIL ? -1 : (int)syscall(SYS_ftruncate, fd, bytes);
}
EXPORT int ftruncate64(int fd, off64_t bytes) { return ftruncate(fd, bytes); }

EXPORT int truncate(const char *path, off_t bytes)
{
    return fails("truncate", AT_FDCWD, path) ? -1 : (int)syscall(SYS_truncate, path, bytes);
}
EXPORT int truncate64(const char *path, off64_t bytes) { return truncate(path, bytes); }

EXPORT int posix_fallocate(int fd, off_t where, off_t bytes)
{
    if (fate_of_fd("truncate", fd, 0) == FAIL)
        return errno;
    return syscall(SYS_fallocate, fd, 0, where, bytes) < 0 ? errno : 0;
}
EXPORT int posix_fallocate64(int fd, off64_t where, off64_t bytes)
{
    return posix_fallocate(fd, where, bytes);
}

EXPORT int fallocate(int fd, int mode, off_t where, off_t bytes)
{
    return fate_of_fd("truncate", fd, 0) == FAIL
               ? -1
               : (int)syscall(SYS_fallocate, fd, mode, where, bytes);
}
EXPORT int fallocate64(int fd, int mode, off64_t where, off64_t bytes)
{
    return fallocate(fd, mode, where, bytes);
}

EXPORT int fsync(int fd)
{
    return fate_of_fd("fsync", fd, 0) == FAIL ? -1 : (int)syscall(SYS_fsync, fd);
}
EXPORT int fdatasync(int fd)
{
    return fate_of_fd("fsync", fd, 0) == FAIL ? -1 : (int)syscall(SYS_fdatasync, fd);
}

EXPORT int fchmod(int fd, mode_t mode)
{
    return fate_of_fd("chmod", fd, 0) == FAIL ? -1 : (int)syscall(SYS_fchmod, fd, mode);
}
EXPORT int chmod(const char *path, mode_t mode)
{
    return fails("chmod", AT_FDCWD, path) ? -1 : (int)syscall(SYS_fchmodat, AT_FDCWD, path, mode);
}

/* ---- names ---- */

EXPORT int renameat2(int dir, const char *path, int to, const char *target, unsigned flags)
{
    return fails_two("rename", dir, path, to, target)
               ? -1
               : (int)syscall(SYS_renameat2, dir, path, to, target, flags);
}
EXPORT int renameat(int dir, const char *path, int to, const char *target)
{
    return renameat2(dir, path, to, target, 0);
}
EXPORT int rename(const char *path, const char *target)
{
    return renameat2(AT_FDCWD, path, AT_FDCWD, target, 0);
}

EXPORT int linkat(int dir, const char *path, int to, const char *target, int flags)
{
    return fails_two("link", dir, path, to, target)
               ? -1
               : (int)syscall(SYS_linkat, dir, path, to, target, flags);
}
EXPORT int link(const char *path, const char *target)
{
    return linkat(AT_FDCWD, path, AT_FDCWD, target, 0);
}

EXPORT int symlinkat(const char *content, int dir, const char *path)
{
    return fails("symlink", dir, path) ? -1 : (int)syscall(SYS_symlinkat, content, dir, path);
}
EXPORT int symlink(const char *content, const char *path)
{
    return symlinkat(content, AT_FDCWD, path);
}

EXPORT int mkdirat(int dir, const char *path, mode_t mode)
{
    return fails("mkdir", dir, path) ? -1 : (int)syscall(SYS_mkdirat, dir, path, mode);
}
EXPORT int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

EXPORT int unlinkat(int dir, const char *path, int flags)
{
    return fails(flags & AT_REMOVEDIR ? "rmdir" : "unlink", dir, path)
               ? -1
               : (int)syscall(SYS_unlinkat, dir, path, flags);
}
EXPORT int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
EXPORT int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
EXPORT int remove(const char *path)
{
    int result = unlink(path);
    return result < 0 && (errno == EISDIR || errno == EPERM) ? rmdir(path) : result;
}
