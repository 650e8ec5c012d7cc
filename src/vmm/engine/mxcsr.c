#include "vmm/engine/mxcsr.h"

#include <string.h>

uint32_t ft_mxcsr_host(void)
{
	uint8_t image[512] __attribute__((aligned(16))) = {0};
	uint32_t mask;
	__asm__ volatile("fxsave64 %0" : "+m"(image));
	memcpy(&mask, image + 28, sizeof(mask));
	return FT_MXCSR_EVERYWHERE | (mask & FT_MXCSR_MM);
}

uint32_t ft_mxcsr_model(const struct ft_model *model)
{
	bool either = ft_model_amd(model) || ft_model_same(model, &FT_MODEL_SOFTWARE);
	return FT_MXCSR_EVERYWHERE | (either ? FT_MXCSR_MM : 0);
}
