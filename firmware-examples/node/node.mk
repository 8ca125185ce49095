# What the boards have in common; a board's Makefile says CROSS, ARCH, LIBRARIES and includes this.
#
# make KEY=…/keys/microcontrollers.pub NAME=har BUILD=folder MONOCYPHER=folder   the program node.elf
# make size …                                                                   what it takes
CORE := ../core
NODE := ../node
BUILD ?= build
FLAGS := -std=c11 -O2 -g $(ARCH) -Wall -Wextra -Werror -ffunction-sections -fdata-sections -ffreestanding \
	-I. -I$(CORE) -I$(NODE) -I$(MONOCYPHER) -I$(BUILD)
# Not ours; made to be small.
FOREIGN := $(filter-out -Wall -Wextra -Werror -O2,$(FLAGS)) -Os
SOURCES ?= $(wildcard *.c $(NODE)/*.c $(CORE)/*.c)
OBJECTS := $(addprefix $(BUILD)/,$(notdir $(patsubst %.c,%.o,$(SOURCES))) monocypher.o)
HEADERS := $(wildcard *.h $(NODE)/*.h $(CORE)/*.h) $(BUILD)/pinned.h

.PHONY: program size
program: $(BUILD)/node.elf
size: program
	$(CROSS)size $(BUILD)/node.elf

# The 64 hexadecimal digits as an initializer of C.
$(BUILD)/pinned.h: $(KEY)
	mkdir -p $(BUILD)
	printf '#define PINNED_KEY {%s}\n#define MODEL_NAME "%s"\n' "$$(sed 's/../0x&,/g' $(KEY))" '$(NAME)' > $@
$(BUILD)/monocypher.o: $(MONOCYPHER)/monocypher.c $(HEADERS)
	$(CROSS)gcc $(FOREIGN) -c $< -o $@
$(BUILD)/%.o: $(CORE)/%.c $(HEADERS)
	$(CROSS)gcc $(FLAGS) -Wconversion -c $< -o $@
$(BUILD)/%.o: $(NODE)/%.c $(HEADERS)
	$(CROSS)gcc $(FLAGS) -c $< -o $@
$(BUILD)/%.o: %.c $(HEADERS)
	$(CROSS)gcc $(FLAGS) -c $< -o $@
$(BUILD)/node.elf: $(OBJECTS) $(ARCHIVES) link.ld
	$(CROSS)gcc $(FLAGS) -nostartfiles -Wl,--gc-sections -T link.ld $(OBJECTS) $(ARCHIVES) $(LIBRARIES) -o $@
