/* bpf(2) with garbage: attributes of every size and at every address, programs of random instructions, more of them and more
 * attachments than there may be, descriptors that are something else. Nothing reaches the host's bpf, and the supervisor goes on. */
#include "abuse.h"
#include <linux/bpf.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#define GROUP "/sys/fs/cgroup/abuse-bpf"

static long bpf(int command, void *attr, unsigned size)
{
	return syscall(SYS_bpf, command, attr, size);
}

static int load(const struct bpf_insn *insns, unsigned count)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof attr);
	attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
	attr.insns = (unsigned long)insns;
	attr.insn_cnt = count;
	attr.license = (unsigned long)"GPL";
	return bpf(BPF_PROG_LOAD, &attr, sizeof attr);
}

static int attach(int group, int program)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof attr);
	attr.target_fd = group;
	attr.attach_bpf_fd = program;
	attr.attach_type = BPF_CGROUP_DEVICE;
	attr.attach_flags = BPF_F_ALLOW_MULTI;
	return bpf(BPF_PROG_ATTACH, &attr, sizeof attr);
}

int main(void)
{
	static struct bpf_insn big[5000];
	char *edge = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (edge == MAP_FAILED || munmap(edge + 4096, 4096)) return 1;
	/* Every command with attributes of garbage, some of which end where memory does. */
	for (int i = 0; i < 3000; i++) {
		unsigned size = rng() % 200;
		for (int k = 0; k < 200; k++) edge[3896 + k] = (char)rng();
		int fd = bpf((int)(rng() % 40), edge + 4096 - size + rng() % 16, size + rng() % 8);
		if (fd > 2) close(fd);
	}
	bpf(BPF_PROG_LOAD, (void *)-1L, 64);
	bpf(BPF_PROG_QUERY, edge, 0xffffffff);
	/* Types of programs that would be the host's. */
	for (unsigned type = 0; type < 40; type++) {
		union bpf_attr attr;
		struct bpf_insn yes[] = { { 0xb7, 0, 0, 0, 1 }, { 0x95, 0, 0, 0, 0 } };
		memset(&attr, 0, sizeof attr);
		attr.prog_type = type;
		attr.insns = (unsigned long)yes;
		attr.insn_cnt = 2;
		attr.license = (unsigned long)"GPL";
		int fd = bpf(BPF_PROG_LOAD, &attr, sizeof attr);
		if (fd >= 0 && type != BPF_PROG_TYPE_CGROUP_DEVICE && type != BPF_PROG_TYPE_CGROUP_SKB) printf("ESCAPED: a program of type %u\n", type);
		if (fd >= 0 && type == BPF_PROG_TYPE_CGROUP_SKB) {
			int top = open("/sys/fs/cgroup", O_RDONLY | O_DIRECTORY);
			if (!attach(top, fd)) printf("ESCAPED: attached one about packets\n");
			close(top);
		}
		if (fd >= 0) close(fd);
	}
	/* Instructions of garbage: what is accepted is asked, and must answer. */
	mkdir(GROUP, 0755);
	int group = open(GROUP, O_RDONLY | O_DIRECTORY), accepted = 0;
	int procs = open(GROUP "/cgroup.procs", O_WRONLY);
	if (group < 0 || write(procs, "0", 1) != 1) return 1;
	static const unsigned char codes[] = { 0x61, 0x69, 0x71, 0x18, 0x07, 0x0f, 0x54, 0x57, 0x74, 0xb7, 0xbf, 0x55, 0x1d, 0x05, 0x95, 0x85, 0x62 };
	for (int i = 0; i < 4000; i++) {
		unsigned count = 1 + rng() % 8;
		for (unsigned k = 0; k < count; k++)
			big[k] = (struct bpf_insn){ codes[rng() % sizeof codes], rng() % 4, rng() % 2, rng() % 3, rng() % 9 };
		big[count] = (struct bpf_insn){ 0x95, 0, 0, 0, 0 };
		int fd = load(big, count + 1);
		if (fd < 0) continue;
		if (accepted < 60 && !attach(group, fd)) accepted++;
		close(fd);
	}
	int null = open("/dev/null", O_RDONLY);
	if (null >= 0) close(null);
	/* The longest program, and one too long. */
	for (int k = 0; k < 5000; k++) big[k] = (struct bpf_insn){ 0xb7, 0, 0, 0, 1 };
	big[1023].code = big[4999].code = 0x95;
	big[1023].imm = big[4999].imm = 0;
	int longest = load(big, 1024);
	if (longest < 0) printf("1,024 instructions: %s\n", strerror(errno));
	if (load(big, 5000) >= 0) printf("ESCAPED: 5,000 instructions\n");
	/* Descriptors that are no program or no group. */
	if (!attach(group, group) || !attach(group, 0) || !attach(longest, longest) || !attach(0, longest)) printf("ESCAPED: attached what is none\n");
	/* More programs than there may be: each is the supervisor's memory. */
	int kept = 0;
	struct bpf_insn yes[] = { { 0xb7, 0, 0, 0, 1 }, { 0x95, 0, 0, 0, 0 } };
	while (kept < 5000 && load(yes, 2) >= 0) kept++;
	if (kept >= 5000) printf("ESCAPED: no limit of programs\n");
	printf("done\n");
	return 0;
}
