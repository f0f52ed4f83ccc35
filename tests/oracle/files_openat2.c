/* oracle: user
 * openat2 and its RESOLVE flags. */
#include "oracle.h"
#include <linux/openat2.h>

static int at2(int dir, const char *path, uint64_t flags, uint64_t resolve, size_t size)
{
	struct {
		struct open_how how;
		uint64_t more;
	} h = { { .flags = flags, .resolve = resolve }, 0 };
	if (size > sizeof h.how && size & 1) h.more = 1;
	size &= ~1ul;
	long r = syscall(SYS_openat2, dir, path, &h, size);
	if (r >= 0) close(r);
	return r < 0 ? -1 : 0;
}
#define A(path, flags, resolve) T(at2(d, path, flags, resolve, sizeof(struct open_how)))

int main(void)
{
	M(mkdir("d", 0755));
	M(mkdir("d/in", 0755));
	put_file("outside", "o", 0644);
	put_file("d/f", "f", 0644);
	M(symlink("f", "d/ln"));
	M(symlink("../outside", "d/esc"));
	M(symlink("/f", "d/abs"));
	M(symlink("in", "d/dl"));
	M(symlink("/proc/self/fd/0", "d/magic"));
	int d = M(open("d", O_RDONLY | O_DIRECTORY));
	A("f", O_RDONLY, 0);
	A("../outside", O_RDONLY, 0);
	A("f", O_RDONLY, RESOLVE_BENEATH);
	A("../outside", O_RDONLY, RESOLVE_BENEATH);
	A("in/../f", O_RDONLY, RESOLVE_BENEATH);
	A("in/../../d/f", O_RDONLY, RESOLVE_BENEATH);
	A("/f", O_RDONLY, RESOLVE_BENEATH);
	A("esc", O_RDONLY, RESOLVE_BENEATH);
	A("abs", O_RDONLY, RESOLVE_BENEATH);
	A("ln", O_RDONLY, RESOLVE_BENEATH);
	A("/f", O_RDONLY, RESOLVE_IN_ROOT);
	A("abs", O_RDONLY, RESOLVE_IN_ROOT);
	A("esc", O_RDONLY, RESOLVE_IN_ROOT);
	A("../../../f", O_RDONLY, RESOLVE_IN_ROOT);
	A("ln", O_RDONLY, RESOLVE_NO_SYMLINKS);
	A("dl/../f", O_RDONLY, RESOLVE_NO_SYMLINKS);
	A("f", O_RDONLY, RESOLVE_NO_SYMLINKS);
	A("ln", O_PATH | O_NOFOLLOW, RESOLVE_NO_SYMLINKS);
	A("/proc/self/fd/0", O_PATH, RESOLVE_NO_MAGICLINKS);
	A("magic", O_PATH, RESOLVE_NO_MAGICLINKS);
	A("ln", O_RDONLY, RESOLVE_NO_MAGICLINKS);
	A("/proc/self/status", O_RDONLY, RESOLVE_NO_XDEV);
	A("f", O_RDONLY, RESOLVE_NO_XDEV);
	A("f", O_RDONLY, RESOLVE_BENEATH | RESOLVE_IN_ROOT);
	A("f", O_RDONLY, 0x8000);
	A("f", 1ull << 40, 0);
	A("f", O_RDONLY | 0x40000000, 0);
	T(at2(d, "f", O_RDONLY, 0, 8));
	T(at2(d, "f", O_RDONLY, 0, sizeof(struct open_how) + 8));
	T(at2(d, "f", O_RDONLY, 0, (sizeof(struct open_how) + 8) | 1));
	struct open_how how = { .flags = O_RDONLY, .mode = 0600 };
	T(syscall(SYS_openat2, d, "f", &how, sizeof how));
	how.flags = O_CREAT | O_RDWR;
	how.mode = 010000;
	T(syscall(SYS_openat2, d, "g", &how, sizeof how));
	how.mode = 0640;
	OK(syscall(SYS_openat2, d, "g", &how, sizeof how));
	return 0;
}
