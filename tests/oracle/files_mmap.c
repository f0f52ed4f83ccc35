/* oracle: user
 * Memory maps of files: shared between processes, private copies, protection, growth; SysV-free shared memory. */
#include "oracle.h"

int main(void)
{
	put_file("f", "0123456789", 0644);
	int fd = M(open("f", O_RDWR));
	M(ftruncate(fd, 8192));
	char *s = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	T(s == MAP_FAILED);
	s[0] = 'S';
	p[1] = 'P';
	char b[12] = "";
	T(pread(fd, b, 10, 0));
	printf("%s\n", b);
	CHILD("child writes through the map", { s[2] = 'C'; p[3] = 'N'; });
	printf("%.10s %.10s\n", s, p);
	int other = M(open("f", O_RDWR));
	T(pwrite(other, "W", 1, 5));
	printf("%.10s\n", s);
	char *again = mmap(NULL, 4096, PROT_READ, MAP_SHARED, other, 0);
	s[6] = 'Z';
	printf("%.10s\n", again);
	T(msync(s, 8192, MS_SYNC));
	T(mprotect(again, 4096, PROT_READ | PROT_WRITE));
	int ro = M(open("f", O_RDONLY));
	T(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ro, 0) == MAP_FAILED ? -1 : 0);
	T(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, ro, 0) == MAP_FAILED ? -1 : 0);
	char *rom = mmap(NULL, 4096, PROT_READ, MAP_SHARED, ro, 0);
	T(mprotect(rom, 4096, PROT_READ | PROT_WRITE));
	int wo = M(open("f", O_WRONLY));
	T(mmap(NULL, 4096, PROT_READ, MAP_SHARED, wo, 0) == MAP_FAILED ? -1 : 0);
	T(mmap(NULL, 0, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
	T(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 1) == MAP_FAILED ? -1 : 0);
	T(mmap(NULL, 4096, PROT_READ, MAP_SHARED, 99, 0) == MAP_FAILED ? -1 : 0);
	int dir = M(open(".", O_RDONLY | O_DIRECTORY));
	T(mmap(NULL, 4096, PROT_READ, MAP_SHARED, dir, 0) == MAP_FAILED ? -1 : 0);
	T(munmap(s + 4096, 4096));
	T(munmap((void *)1, 4096));
	/* A read-only map opened before a write by name sees it: one file, not two copies. */
	put_file("g", "before", 0644);
	int g = M(open("g", O_RDONLY));
	char *gm = mmap(NULL, 4096, PROT_READ, MAP_SHARED, g, 0);
	int gw = M(open("g", O_WRONLY));
	M(write(gw, "after!", 6));
	printf("%.6s\n", gm);
	M(unlink("g"));
	printf("%.6s\n", gm);
	/* Code mapped from a file runs. */
	unsigned char code[] = { 0xb8, 42, 0, 0, 0, 0xc3 };
	int x = M(open("code", O_CREAT | O_RDWR, 0755));
	M(write(x, code, sizeof code));
	int (*fn)(void) = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, x, 0);
	printf("code: %d\n", fn == MAP_FAILED ? -1 : fn());
	int mem = T(memfd_create("name", MFD_CLOEXEC | MFD_ALLOW_SEALING));
	M(ftruncate(mem, 4096));
	T(fcntl(mem, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
	T(ftruncate(mem, 0));
	T(fcntl(mem, F_GET_SEALS));
	char l[64] = "", path[32];
	snprintf(path, sizeof path, "/proc/self/fd/%d", mem);
	M(readlink(path, l, 63));
	printf("%s\n", l);
	int shm = T(open("/dev/shm/nomina-oracle", O_CREAT | O_RDWR | O_EXCL, 0600));
	M(ftruncate(shm, 4096));
	int *counter = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, shm, 0);
	for (int i = 0; i < 4; i++)
		if (fork() == 0) {
			for (int j = 0; j < 1000; j++) __atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
			_exit(0);
		}
	while (wait(NULL) > 0)
		;
	printf("counter %d\n", *counter);
	T(unlink("/dev/shm/nomina-oracle"));
	char *grow = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	strcpy(grow, "kept");
	grow = mremap(grow, 4096, 1 << 20, MREMAP_MAYMOVE);
	printf("mremap %s\n", grow);
	T(madvise(grow, 4096, MADV_DONTNEED));
	printf("\"%s\"\n", grow);
	return 0;
}
