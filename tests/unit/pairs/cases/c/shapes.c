/* A licence that nobody reads: Copyright 2026 by nobody. */
#include <stdio.h>

/** Adds two numbers. */
static inline int add(int a, int b)
{
	return a + b;
}

/*! Multiplies two numbers. */
int *times(int a, int b)
{
	return 0;
}

/// Divides two numbers,
/// the first by the second.
int divide(int a, int b) {
	return a / b;
}

//! Takes the rest of it.
int rest(int a, int b) {
	return a % b;
}

/**
 * \brief Reads a line of text.
 * \param[in] file to read from
 * \return its length
 *
 * Longer lines are cut.
 */
long read_line(FILE *file)
{
	return 0;
}

/**
 * write_line() - write one line to a file
 * @file: where to
 * @text: what,
 *   however long
 *
 * Description: The line break is added.
 *
 * Return: how many bytes were written
 */
int write_line(FILE *file, const char *text)
{
	return 0;
}

/* Plain comments directly above describe what follows. */
int plain(void)
{
	return 1;
}

// So do lines of slashes,
// two of them here.
int slashes(void)
{
	return 1;
}

/* A heading of what follows. */

int spaced(void)
{
	return 1;
}

/* TODO: make it faster some day */
int remarked(void)
{
	return 1;
}

/** Stands above a blank line. */

int documented_apart(void)
{
	return 1;
}

int counter; /* counts the calls of it */
int after_field(void)
{
	return counter;
}

int level; /**< How deep it is by now. */
int after_member(void)
{
	return level;
}

/** Returns a pointer to a function. */
int (*chosen(int kind))(int)
{
	return 0;
}

/** Is declared here alone. */
int declared(int a);

/** Takes its arguments as K&R did. */
int old_style(a, b)
int a;
char *b;
{
	return a;
}

/** Picks the larger of two values. */
#define LARGER(a, b) \
	((a) > (b) ? \
	 (a) : (b))

/** Is a constant, no function. */
#define MOST 10

#ifdef WITH_LOCKS
/** Locks before it counts. */
int count(void)
{
	return lock();
}
#else
/** Counts without any lock. */
int count(void)
{
	return 0;
}
#endif

/** Opens in two ways by the platform. */
#ifdef _WIN32
int open_it(const wchar_t *name) {
#else
int open_it(const char *name) {
#endif
	return 0;
}

/** Has an attribute before its type. */
__attribute__((noinline)) static int attributed(void)
{
	return 1;
}

/** Is exported by a macro. */
EXPORT_API int exported(void)
{
	return 1;
}

/** A point in the plane. */
struct point {
	int x;
	int y;
};

/** Some numbers of it. */
typedef struct {
	int a;
} numbers_t;

/** Returns a struct by value. */
struct point origin(void)
{
	struct point zero = {0, 0};
	return zero;
}

/**********************
 * Helpers of the tests
 **********************/

/* ---------- helpers ---------- */
int divided(void)
{
	return 1;
}

/** @file Is about the file alone. */
int first_of_file(void)
{
	return 1;
}

/** Uses \c size and \p count of \ref point "a point" with \f$x^2\f$ in it. */
int inline_commands(void)
{
	return 1;
}

/** The test of it all. */
int test_it(void)
{
	return 1;
}

/** Runs the whole program. */
int main(int argc, char **argv)
{
	return 0;
}

/**
 * Zählt die Stücke.
 * @code
 * stueck_zahl();
 * @endcode
 */
int stueck_zahl(void)
{
	return 1;
}
