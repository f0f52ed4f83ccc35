/* oracle: root
 * Who may remove, rename, link, chmod, chown and set times of whose objects: sticky directories, other groups, set-id bits,
 * every type, as pjdfstest's chmod, chown, rename, unlink, rmdir and utimensat files ask. */
#include "posix.h"

static const struct who whos[] = { { "root", 0, 0, -1, -1 }, { "u1", 1101, 1101, -1, -1 }, { "u2", 1102, 1102, -1, -1 }, { "u2+g1", 1102, 1102, 1101, -1 },
	{ "u1+g5g6", 1101, 1101, 1105, 1106 } };

static void sticky(void)
{
	mode_t modes[] = { 0777, 01777, 01775, 01755, 0333 };
	uid_t owners[] = { 0, 1101, 1102 };
	for (int m = 0; m < 5; m++)
		for (int d = 0; d < 3; d++)
			for (int f = 0; f < 3; f++)
				for (int w = 0; w < 4; w++) {
					printf("dir %o of %d, object of %d, by %s:", modes[m], owners[d], owners[f], whos[w].name);
					for (int op = 0; op < 7; op++) {
						int type = op == 1 || op == 5 ? DIR_ : op == 6 ? LINK_ : FILE_;
						wipe();
						M(mkdir("d", 0777));
						M(mkdir("free", 0777));
						M(chmod("free", 0777));
						M(make(type, "d/x", 0644));
						M(lchown("d/x", owners[f], owners[f]));
						M(make(type, "free/y", 0644));
						M(lchown("free/y", owners[f], owners[f]));
						M(chown("d", owners[d], owners[d]));
						M(chmod("d", modes[m]));
						become(&whos[w]);
						int r = op == 0 || op == 6 ? unlink("d/x") : op == 1 ? rmdir("d/x") : op == 2 ? rename("d/x", "d/z") : op == 3 ? rename("d/x", "free/z")
							: op == 4 ? rename("free/y", "d/x") : rename("free/y", "d/x");
						printf(" %s", r ? name_of(errno) : "ok");
						become_root();
					}
					puts("");
				}
}

/* A directory that changes its parent is written itself. */
static void moved_dirs(void)
{
	for (int w = 0; w < 4; w++)
		for (int m = 0; m < 4; m++) {
			mode_t modes[] = { 0755, 0555, 0777, 0575 };
			wipe();
			M(mkdir("a", 0777));
			M(mkdir("b", 0777));
			M(chmod("a", 0777));
			M(chmod("b", 0777));
			M(mkdir("a/x", 0755));
			M(mkdir("b/y", 0755));
			M(chown("a/x", 1101, 1101));
			M(chmod("a/x", modes[m]));
			become(&whos[w]);
			printf("directory %o moved by %s: within %s,", modes[m], whos[w].name, rename("a/x", "a/x2") ? name_of(errno) : "ok");
			rename("a/x2", "a/x");
			printf(" exchanged %s,", syscall(SYS_renameat2, AT_FDCWD, "a/x", AT_FDCWD, "b/y", RENAME_EXCHANGE) ? name_of(errno) : "ok");
			printf(" across %s\n", rename("a/x", "b/x") ? name_of(errno) : "ok");
			become_root();
		}
}

static void changes(void)
{
	struct timespec ts[2] = { { 11, 12 }, { 13, 14 } };
	struct timespec half[2] = { { 0, UTIME_NOW }, { 0, UTIME_OMIT } }, now[2] = { { 0, UTIME_NOW }, { 0, UTIME_NOW } };
	mode_t bits[] = { 0644, 06777, 02664, 02674, 04644, 01666 };
	gid_t gids[] = { -1, 1101, 1102, 1105, 0 };
	for (int t = 0; t < TYPES; t++)
		for (int w = 0; w < 5; w++)
			for (int b = 0; b < 6; b++) {
				if (t == LINK_ && b) break;
				wipe();
				M(make(t, "x", 0644));
				M(lchown("x", 1101, 1105));
				if (t != LINK_) M(chmod("x", bits[b]));
				become(&whos[w]);
				printf("%s %o by %s:", types[t], bits[b], whos[w].name);
				if (t != LINK_) {
					printf(" chmod %s", chmod("x", 06755) ? name_of(errno) : "ok");
					printf(" (%s)", shown("x"));
					printf(" chmod %s", chmod("x", 01777) ? name_of(errno) : "ok");
					printf(" (%s)", shown("x"));
				}
				printf(" times %s now %s half %s;", utimensat(AT_FDCWD, "x", ts, AT_SYMLINK_NOFOLLOW) ? name_of(errno) : "ok",
				       utimensat(AT_FDCWD, "x", now, AT_SYMLINK_NOFOLLOW) ? name_of(errno) : "ok",
				       utimensat(AT_FDCWD, "x", half, AT_SYMLINK_NOFOLLOW) ? name_of(errno) : "ok");
				become_root();
				for (int g = 0; g < 5; g++) {
					M(lchown("x", 1101, 1105));
					if (t != LINK_) M(chmod("x", bits[b]));
					become(&whos[w]);
					printf(" chgrp %d %s", (int)gids[g], lchown("x", -1, gids[g]) ? name_of(errno) : "ok");
					printf(" (%s)", shown("x"));
					become_root();
				}
				uid_t uids[] = { 1101, 1102, 0 };
				for (int u = 0; u < 3; u++) {
					M(lchown("x", 1101, 1105));
					if (t != LINK_) M(chmod("x", bits[b]));
					become(&whos[w]);
					printf(" chown %d %s", (int)uids[u], lchown("x", uids[u], -1) ? name_of(errno) : "ok");
					printf(" (%s)", shown("x"));
					become_root();
				}
				puts("");
			}
}

/* Whose the new object is, and its mode: umask, set-group-ID directories, each way to make something. */
static void births(void)
{
	mode_t dirs[] = { 0777, 02777, 03777 };
	mode_t masks[] = { 0, 022, 077, 0777 };
	for (int d = 0; d < 3; d++)
		for (int w = 0; w < 5; w++)
			for (int k = 0; k < 4; k++) {
				wipe();
				umask(0);
				M(mkdir("d", 0777));
				M(chown("d", 0, 1105));
				M(chmod("d", dirs[d]));
				become(&whos[w]);
				umask(masks[k]);
				printf("in %o by %s umask %o:", dirs[d], whos[w].name, masks[k]);
				for (int t = 0; t < (w ? CHR_ : TYPES); t++) {
					char p[20];
					snprintf(p, sizeof p, "d/%d", t);
					printf(" %s", make(t, p, t == DIR_ ? 01777 : 06777) ? name_of(errno) : shown(p));
				}
				int fd = open("d/opened", O_CREAT | O_EXCL | O_WRONLY, 07776);
				printf(" open %s", fd < 0 ? name_of(errno) : shown("d/opened"));
				close(fd);
				fd = open("d/opened2", O_CREAT | O_EXCL | O_WRONLY, 02666);
				printf(" %s", fd < 0 ? name_of(errno) : shown("d/opened2"));
				close(fd);
				fd = open("d", O_TMPFILE | O_RDWR, 06775);
				struct stat st = { 0 };
				fstat(fd, &st);
				printf(" tmpfile %o %d:%d", st.st_mode, (int)st.st_uid, (int)st.st_gid);
				close(fd);
				umask(0);
				if (w) printf(" devices %s %s", make(CHR_, "d/c", 0600) ? name_of(errno) : "ok", make(BLK_, "d/b", 0600) ? name_of(errno) : "ok");
				puts("");
				become_root();
			}
	umask(022);
}

/* Opening somebody's object: each mode bit alone, for each caller, and creating over it in a sticky directory (protected_*). */
static void opening(void)
{
	for (int bit = 0; bit < 9; bit++)
		for (int w = 0; w < 5; w++) {
			wipe();
			umask(0);
			put_file("x", "x", 0);
			M(chown("x", 1101, 1105));
			M(chmod("x", 1 << bit));
			M(mkdir("d", 0777));
			M(mkdir("d/in", 0777));
			M(chown("d", 1101, 1105));
			M(chmod("d", 1 << bit));
			become(&whos[w]);
			int flags[] = { O_RDONLY, O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_TRUNC, O_RDONLY | O_NOATIME, O_PATH };
			printf("bit %o by %s:", 1 << bit, whos[w].name);
			for (int f = 0; f < 7; f++) {
				int fd = open("x", flags[f]);
				printf(" %s", fd < 0 ? name_of(errno) : "ok");
				close(fd);
			}
			printf(" access %s", access("x", R_OK) ? name_of(errno) : "ok");
			for (int a = 0; a < 8; a++) printf(" %s", faccessat(AT_FDCWD, "x", a, AT_EACCESS) ? name_of(errno) : "ok");
			printf(" truncate %s", truncate("x", 0) ? name_of(errno) : "ok");
			printf(" dir: open %s", close(open("d", O_RDONLY)) ? name_of(errno) : "ok");
			printf(" search %s", access("d/in", F_OK) ? name_of(errno) : "ok");
			struct stat st;
			printf(" stat %s", stat("d/in", &st) ? name_of(errno) : "ok");
			printf(" make %s", mkdir("d/new", 0700) ? name_of(errno) : "ok");
			printf(" chdir %s", chdir("d") ? name_of(errno) : "ok");
			become_root();
			M(fchdir(3));
			puts("");
		}
	umask(022);
}

/* Writing, truncating and the like take the set-id bits and capabilities of a file away, for who may not keep them. */
static void set_ids(void)
{
	mode_t bits[] = { 06777, 06666, 02775, 02664, 04755 };
	for (int b = 0; b < 5; b++)
		for (int w = 0; w < 5; w++) {
			printf("%o by %s:", bits[b], whos[w].name);
			for (int op = 0; op < 7; op++) {
				wipe();
				put_file("x", "0123456789", 0666);
				M(chown("x", 1101, 1105));
				M(chmod("x", bits[b] | 0666));
				become(&whos[w]);
				int r = 0, fd = -1;
				switch (op) {
				case 0: fd = open("x", O_WRONLY); r = write(fd, "a", 1); break;
				case 1: r = truncate("x", 5); break;
				case 2: fd = open("x", O_WRONLY | O_TRUNC); r = fd; break;
				case 3: fd = open("x", O_WRONLY); r = ftruncate(fd, 4); break;
				case 4: fd = open("x", O_WRONLY); r = fallocate(fd, 0, 0, 100); break;
				case 5: fd = open("x", O_RDONLY); r = fd; break;
				case 6: r = chown("x", -1, -1); break;
				}
				printf(" %s %s", r < 0 ? name_of(errno) : "ok", shown("x"));
				if (fd >= 0) close(fd);
				become_root();
			}
			puts("");
		}
}

int main(void)
{
	umask(022);
	M(mkdir("w", 0755));
	M(chdir("w"));
	if (open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) != 3) return 98;
	sticky();
	moved_dirs();
	changes();
	births();
	opening();
	set_ids();
	return 0;
}
