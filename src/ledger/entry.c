#include "ledger/entry.h"

const char *ft_entry_name(unsigned type)
{
	switch (type) {
#define X(name, number, text, says)                                                                                  \
	case number:                                                                                                 \
		return text;
		FT_ENTRIES(X)
#undef X
	default:
		return "unknown type";
	}
}
