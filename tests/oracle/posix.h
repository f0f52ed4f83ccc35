/* What the posix_*.c share: objects of every type, and doing things as somebody else. */
#include "oracle.h"
#include <ftw.h>
#include <grp.h>
#include <sys/xattr.h>

static const char *const __attribute__((unused)) types[] = { "file", "dir", "fifo", "sock", "link", "chr", "blk" };
enum { FILE_, DIR_, FIFO_, SOCK_, LINK_, CHR_, BLK_, TYPES };

/* Makes an object of a type; devices need root. */
static inline int make(int type, const char *p, mode_t mode)
{
	switch (type) {
	case FILE_: return mknod(p, S_IFREG | mode, 0);
	case DIR_: return mkdir(p, mode);
	case FIFO_: return mkfifo(p, mode);
	case SOCK_: return mknod(p, S_IFSOCK | mode, 0);
	case LINK_: return symlink("elsewhere", p);
	case CHR_: return mknod(p, S_IFCHR | mode, 0x103);
	default: return mknod(p, S_IFBLK | mode, 0x700);
	}
}
static inline int erase(const char *p)
{
	struct stat st;
	if (lstat(p, &st)) return -1;
	return S_ISDIR(st.st_mode) ? rmdir(p) : unlink(p);
}
static int oracle_gone(const char *p, const struct stat *st, int kind, struct FTW *f)
{
	return f->level ? remove(p) : 0;
}
/* Empties the working directory. */
static inline void wipe(void)
{
	M(nftw(".", oracle_gone, 16, FTW_DEPTH | FTW_PHYS));
}

/* A user with up to two further groups (-1: none). The saved ids stay root's. */
struct who {
	const char *name;
	uid_t uid;
	gid_t gid, more, still;
};
static inline void become(const struct who *w)
{
	gid_t g[2] = { w->more, w->still };
	M(setresuid(-1, 0, -1));
	M(setresgid(-1, 0, -1));
	M(setgroups(w->more == (gid_t)-1 ? 0 : w->still == (gid_t)-1 ? 1 : 2, g));
	if (w->uid) {
		M(setresgid(-1, w->gid, -1));
		M(setresuid(-1, w->uid, -1));
	}
}
static inline void become_root(void)
{
	M(setresuid(-1, 0, -1));
	M(setresgid(-1, 0, -1));
	M(setgroups(0, NULL));
}

/* "mode uid gid links", without what differs between file systems. */
static inline const char *shown(const char *p)
{
	static char b[4][80];
	static int k;
	struct stat st;
	char *o = b[k++ % 4];
	if (lstat(p, &st)) return name_of(errno);
	snprintf(o, 80, "%o %d:%d", st.st_mode, (int)st.st_uid, (int)st.st_gid);
	return o;
}
