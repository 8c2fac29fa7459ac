// A single translation unit, because parsing libtorch's headers takes longer than compiling the functions.

#include "attention.cpp"
#include "embedding.cpp"
#include "gradient.cpp"
#include "layout.cpp"
#include "linear.cpp"
#include "lists.cpp"
