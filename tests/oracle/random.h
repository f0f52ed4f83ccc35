/* What programs that run random sequences share. A sequence is a script of one operation a line; a seed says which. Without
 * arguments a fixed set of sequences; tests/nightly runs others:
 *
 *   PROGRAM FIRST COUNT   one line for each of these seeds: the results and a digest of all that was seen
 *   PROGRAM -g SEED       prints the sequence of a seed as a script
 *   PROGRAM -             runs the script on standard input and shows everything
 */
#define TEXT (1 << 18)

/* The generator: xorshift64* */

static uint64_t state;

static void seed_generator(uint64_t seed)
{
	state = (seed + 1) * 0x9e3779b97f4a7c15ULL | 1;
}

static unsigned below(unsigned n)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return ((state * 0x2545f4914f6cdd1dULL) >> 33) % n;
}

/* What is seen: shown, or only counted into the digest. */

static uint64_t digest = 0xcbf29ce484222325ULL;
static int verbose;

static void out(const char *format, ...)
{
	char text[1024];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	if (verbose)
		fputs(text, stdout);
	for (char *c = text; *c; c++)
		digest = (digest ^ (unsigned char)*c) * 0x100000001b3ULL;
}

/* Of the fixed set the second half has the seeds from `second` on. */
static int random_main(int argc, char **argv, unsigned long count, unsigned long second, void (*generate)(uint64_t, char *),
		       void (*sequence)(char *))
{
	static char script[TEXT];
	unsigned long first = 0;
	if (argc == 3 && !strcmp(argv[1], "-g")) {
		generate(strtoul(argv[2], NULL, 0), script);
		fputs(script, stdout);
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "-")) {
		verbose = 1;
		script[fread(script, 1, TEXT - 1, stdin)] = 0;
		sequence(script);
		return 0;
	}
	if (argc == 3) {
		first = strtoul(argv[1], NULL, 0);
		count = strtoul(argv[2], NULL, 0);
	}
	for (unsigned long n = 0; n < count; n++) {
		unsigned long seed = first + n + (argc < 3 && n >= count / 2 ? second : 0);
		generate(seed, script);
		printf("%lu:", seed);
		sequence(script);
	}
	return 0;
}
