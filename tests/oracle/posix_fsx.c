/* oracle: user
 * A random exerciser of one file, as fsx: reads, writes, maps, truncations, holes and copies by several descriptors and names,
 * each compared with a model in memory. Seeded: the same on every file system. Prints what differs, and a hash of all that was
 * read. An argument is another seed, a second one another number of operations. */
#include "posix.h"
#include <linux/falloc.h>

#define MAX (256 * 1024)

static unsigned char model[MAX], buf[MAX];
static long size;
static uint64_t state, hash = 14695981039346656037u;
static int step;

static unsigned rnd(unsigned below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % below;
}
static void mix(const void *p, size_t n)
{
	for (size_t i = 0; i < n; i++) hash = (hash ^ ((unsigned char *)p)[i]) * 1099511628211u;
}
static void wrong(const char *what, long at)
{
	printf("step %d: %s differs at %ld (size %ld)\n", step, what, at, size);
	exit(1);
}
static void same(const char *what, const unsigned char *got, long at, long n)
{
	for (long i = 0; i < n; i++)
		if (got[i] != model[at + i]) wrong(what, at + i);
	mix(got, n);
}
static void grown(long to)
{
	if (to > size) size = to;
}

int main(int argc, char **argv)
{
	int ops = argc > 2 ? atoi(argv[2]) : 4000;
	state = argc > 1 ? strtoull(argv[1], NULL, 0) : 20261124;
	if (argc <= 1 && getenv("FSX_SEED")) state = strtoull(getenv("FSX_SEED"), NULL, 0);
	const char *names[] = { "x", "y", "d/z" };
	int name = 0;
	M(mkdir("d", 0755));
	int fd[3];
	for (int i = 0; i < 3; i++) fd[i] = M(open("x", O_RDWR | O_CREAT, 0644));
	for (step = 0; step < ops; step++) {
		int f = fd[rnd(3)];
		long at = rnd(3) ? rnd(MAX / 2) : rnd(MAX - 70000), n = 1 + (rnd(4) ? rnd(3000) : rnd(65536));
		if (at + n > MAX) n = MAX - at;
		struct stat st;
		switch (rnd(17)) {
		case 0: case 1: case 2: {
			long want = at >= size ? 0 : at + n > size ? size - at : n;
			if (pread(f, buf, n, at) != want) wrong("length read", at);
			same("read", buf, at, want);
			break;
		}
		case 3: case 4: case 5:
			for (long i = 0; i < n; i++) model[at + i] = rnd(256);
			if (pwrite(f, model + at, n, at) != n) wrong("length written", at);
			grown(at + n);
			break;
		case 6: {
			if (at >= size) break;
			if (at + n > size) n = size - at;
			long page = at & ~4095L;
			unsigned char *m = mmap(NULL, at + n - page, PROT_READ, rnd(2) ? MAP_SHARED : MAP_PRIVATE, f, page);
			if (m == MAP_FAILED) wrong("map", at);
			same("mapped", m + at - page, at, n);
			munmap(m, at + n - page);
			break;
		}
		case 7: {
			if (at + n > size) {
				M(ftruncate(f, at + n));
				grown(at + n);
			}
			long page = at & ~4095L;
			unsigned char *m = mmap(NULL, at + n - page, PROT_READ | PROT_WRITE, MAP_SHARED, f, page);
			if (m == MAP_FAILED) wrong("map", at);
			for (long i = 0; i < n; i++) m[at - page + i] = model[at + i] = rnd(256);
			if (rnd(2)) M(msync(m, at + n - page, MS_SYNC));
			munmap(m, at + n - page);
			break;
		}
		case 8: {
			if (rnd(2)) M(ftruncate(f, at));
			else M(truncate(names[name], at));
			if (at < size) memset(model + at, 0, size - at);
			size = at;
			break;
		}
		case 9:
			M(fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, n));
			memset(model + at, 0, n);
			break;
		case 10:
			if (rnd(2)) {
				M(fallocate(f, 0, at, n));
				grown(at + n);
			} else M(fallocate(f, FALLOC_FL_KEEP_SIZE, at, n));
			break;
		case 11: {
			if (at >= size) break;
			if (at + n > size) n = size - at;
			off_t from = at, to = rnd(MAX - n);
			if (from < to + n && to < from + n) break;
			long left = n;
			while (left > 0) {
				long r = copy_file_range(fd[rnd(3)], &from, f, &to, left, 0);
				if (r <= 0) wrong("copy", at);
				left -= r;
			}
			memmove(model + to - n, model + at, n);
			grown(to);
			break;
		}
		case 12: { /* another name, the old one gone */
			int next = (name + 1 + rnd(2)) % 3;
			M(rename(names[name], names[next]));
			name = next;
			break;
		}
		case 13: { /* opened again, by its name */
			int i = rnd(3);
			close(fd[i]);
			fd[i] = M(open(names[name], O_RDWR | (rnd(2) ? O_SYNC : 0)));
			break;
		}
		case 14:
			M(fstat(f, &st));
			if (st.st_size != size) wrong("size", st.st_size);
			M(stat(names[name], &st));
			if (st.st_size != size) wrong("size by name", st.st_size);
			if (rnd(3) == 0) M(chmod(names[name], 0600 + rnd(64)));
			break;
		case 15: { /* replaced by a copy, as editors save */
			int i = M(open("new", O_RDWR | O_CREAT | O_EXCL, 0600));
			long done = 0;
			while (done < size) {
				long r = pread(f, buf, 1 + rnd(sizeof buf), done);
				if (r <= 0 || pwrite(i, buf, r, done) != r) wrong("save", done);
				done += r;
			}
			M(rename("new", names[name]));
			for (int k = 0; k < 3; k++) {
				close(fd[k]);
				fd[k] = k ? dup(i) : i;
			}
			break;
		}
		case 16:
			if (rnd(8) == 0) M(fsync(f));
			lseek(f, at, SEEK_SET);
			if (rnd(2)) {
				for (long i = 0; i < 100; i++) model[at + i] = i;
				if (write(f, model + at, 100) != 100) wrong("write at position", at);
				grown(at + 100);
			}
			break;
		}
	}
	if (pread(fd[0], buf, MAX, 0) != size) wrong("length at last", 0);
	same("all", buf, 0, size);
	printf("size %ld hash %016lx\n", size, (unsigned long)hash);
	return 0;
}
