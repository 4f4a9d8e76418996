#ifndef SHAPES_H
#define SHAPES_H

/** Gives the half of it. */
static inline int half(int a)
{
	return a / 2;
}

#endif
