/* A disk that can lose power, and fail, for a program that is started with this in LD_PRELOAD.
 *
 * Every call that changes a file of one folder is carried out, and written down in order before its
 * caller goes on. From what is written down, tests/it/support/disk.rs works out what a disk would hold
 * that lost whatever was not synced. Syncs are only written down, since the files outlive a killed
 * process all the same. Memory that processes share (`-shm`) is not part of the disk.
 *
 *   DISK_FOLDER   the folder, as an absolute path without links; folders in it are not looked at
 *   DISK_TRACE    where to write it down: a file outside the folder
 *   DISK_AT       which call, counted from 1, is disturbed; absent: none
 *   DISK_COUNTS   which calls are counted: `changes` (syncs among them), `syncs` or `reads`
 *   DISK_DOES     what happens to it: an errno, in figures; or 0: the power goes (the process is killed)
 *   DISK_ONWARDS  when set, all calls after it as well
 *
 * Absent on purpose: calls that neither SQLite nor Rust's standard library makes on these files
 * (mmap, fallocate, dup, io_uring). The test of this file itself shows that nothing is missed.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define DESCRIPTORS_MAX 65536

/* How a record begins; `size` bytes follow: what was written, or names. */
struct record {
    char kind; /* Created, Written, Truncated, Synced, Not synced, Directory synced, Unlinked, Renamed, Hit */
    char padding[7];
    uint64_t inode, offset, size;
};

enum target { NOTHING, A_FILE, THE_FOLDER };
enum counted { CHANGE, SYNC, READ };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static enum target targets[DESCRIPTORS_MAX];
static uint64_t inodes[DESCRIPTORS_MAX];
static const char *folder;
static int trace = -1;
static long calls, disturbed_at, does;
static int goes_onwards;
static enum counted counts;

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void)
{
    const char *file = getenv("DISK_TRACE"), *at = getenv("DISK_AT"), *what = getenv("DISK_DOES");
    const char *counted = getenv("DISK_COUNTS");
    if (!file || !getenv("DISK_FOLDER")) return;
    trace = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (trace < 0) _exit(99);
    disturbed_at = at ? atol(at) : 0;
    does = what ? atol(what) : 0;
    goes_onwards = getenv("DISK_ONWARDS") != NULL;
    counts = !counted || !strcmp(counted, "changes") ? CHANGE : strcmp(counted, "syncs") ? READ : SYNC;
    folder = getenv("DISK_FOLDER");
}

static void note(char kind, uint64_t inode, uint64_t offset, const void *bytes, uint64_t size)
{
    struct record record = {.kind = kind, .inode = inode, .offset = offset, .size = size};
    struct iovec parts[2] = {{&record, sizeof record}, {(void *)bytes, size}};
    long done = syscall(SYS_writev, trace, parts, size ? 2 : 1);
    if (done != (long)(sizeof record + size)) _exit(99);
}

static const char *name_in_folder(const char *path)
{
    size_t length = folder ? strlen(folder) : 0;
    if (!length || strncmp(path, folder, length) || path[length] != '/') return NULL;
    const char *name = path + length + 1, *shared = strstr(name, "-shm");
    return *name && !strchr(name, '/') && !(shared && !shared[4]) ? name : NULL;
}

/* Counts a call, with the lock held. Whether it is to fail, with errno set. */
static int is_disturbed(enum counted kind, const char *call)
{
    if (kind != counts && !(kind == SYNC && counts == CHANGE)) return 0;
    calls += 1;
    if (!disturbed_at || calls < disturbed_at || (calls > disturbed_at && !goes_onwards)) return 0;
    note('H', 0, calls, call, strlen(call));
    if (!does) {
        syscall(SYS_kill, getpid(), SIGKILL);
        for (;;) pause();
    }
    errno = does;
    return 1;
}

/* --- Names ------------------------------------------------------------------------------------- */

static int opened(int at, const char *path, int flags, mode_t mode)
{
    const char *name = name_in_folder(path);
    int is_folder = folder && !strcmp(path, folder);
    if (!name && !is_folder) return syscall(SYS_openat, at, path, flags, mode);
    pthread_mutex_lock(&lock);
    int fd = -1;
    struct stat file;
    if (!is_disturbed(CHANGE, "open")) {
        int is_new = name && (flags & O_CREAT) && lstat(path, &file) != 0;
        fd = syscall(SYS_openat, at, path, flags, mode);
        if (fd >= DESCRIPTORS_MAX) _exit(99);
        if (fd >= 0 && fstat(fd, &file) == 0) {
            targets[fd] = name ? A_FILE : THE_FOLDER;
            inodes[fd] = file.st_ino;
            if (is_new) note('C', file.st_ino, 0, name, strlen(name));
            else if (name && (flags & O_TRUNC)) note('T', file.st_ino, 0, NULL, 0);
        }
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return opened(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return opened(at, path, flags, mode); }

int close(int fd)
{
    if (fd < 0 || fd >= DESCRIPTORS_MAX || targets[fd] == NOTHING) return syscall(SYS_close, fd);
    pthread_mutex_lock(&lock);
    targets[fd] = NOTHING;
    int done = syscall(SYS_close, fd);
    pthread_mutex_unlock(&lock);
    return done;
}

int unlink(const char *path)
{
    REAL(unlink);
    const char *name = name_in_folder(path);
    if (!name) return real(path);
    struct stat file;
    if (lstat(path, &file) != 0) return real(path);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (!is_disturbed(CHANGE, "unlink")) {
        note('U', 0, 0, name, strlen(name));
        done = real(path);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int rename(const char *from, const char *to)
{
    REAL(rename);
    const char *old = name_in_folder(from), *new = name_in_folder(to);
    if (!old || !new) return real(from, to);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (!is_disturbed(CHANGE, "rename")) {
        char names[2 * PATH_MAX];
        size_t length = strlen(old) + 1;
        memcpy(names, old, length);
        memcpy(names + length, new, strlen(new));
        note('R', 0, 0, names, length + strlen(new));
        done = real(from, to);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

/* --- Content ----------------------------------------------------------------------------------- */

static int is(enum target target, int fd)
{
    return fd >= 0 && fd < DESCRIPTORS_MAX && targets[fd] == target;
}

static ssize_t written(int fd, const void *bytes, size_t size, off_t offset)
{
    pthread_mutex_lock(&lock);
    int fails = is_disturbed(CHANGE, "write");
    int reason = errno;
    /* What fails leaves half of it behind. */
    if (fails) size /= 2;
    ssize_t done = 0;
    if (size) {
        note('W', inodes[fd], offset, bytes, size);
        done = syscall(SYS_pwrite64, fd, bytes, size, offset);
    }
    pthread_mutex_unlock(&lock);
    if (fails) errno = reason;
    return fails ? -1 : done;
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    return is(A_FILE, fd) ? written(fd, bytes, size, offset) : syscall(SYS_pwrite64, fd, bytes, size, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset)
{
    return pwrite(fd, bytes, size, offset);
}

ssize_t write(int fd, const void *bytes, size_t size)
{
    if (!is(A_FILE, fd)) return syscall(SYS_write, fd, bytes, size);
    int at_end = fcntl(fd, F_GETFL) & O_APPEND;
    off_t offset = lseek(fd, 0, at_end ? SEEK_END : SEEK_CUR);
    ssize_t done = written(fd, bytes, size, offset);
    if (done > 0) lseek(fd, offset + done, SEEK_SET);
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    if (!is(A_FILE, fd)) return syscall(SYS_writev, fd, parts, count);
    return count ? write(fd, parts[0].iov_base, parts[0].iov_len) : 0;
}

static int truncated(int fd, off_t size)
{
    if (!is(A_FILE, fd)) return syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (!is_disturbed(CHANGE, "truncate")) {
        note('T', inodes[fd], size, NULL, 0);
        done = syscall(SYS_ftruncate, fd, size);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t size) { return truncated(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncated(fd, size); }

static int synced(int fd, long call)
{
    if (!is(A_FILE, fd) && !is(THE_FOLDER, fd)) return syscall(call, fd);
    pthread_mutex_lock(&lock);
    int fails = is_disturbed(SYNC, "sync");
    if (is(A_FILE, fd)) note(fails ? 'N' : 'S', inodes[fd], 0, NULL, 0);
    else if (!fails) note('D', 0, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return fails ? -1 : 0;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

ssize_t pread(int fd, void *bytes, size_t size, off_t offset)
{
    if (is(A_FILE, fd) && counts == READ) {
        pthread_mutex_lock(&lock);
        int fails = is_disturbed(READ, "read");
        pthread_mutex_unlock(&lock);
        if (fails) return -1;
    }
    return syscall(SYS_pread64, fd, bytes, size, offset);
}

ssize_t pread64(int fd, void *bytes, size_t size, off64_t offset)
{
    return pread(fd, bytes, size, offset);
}
