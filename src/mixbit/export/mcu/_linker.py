"""The linker script of a board, printed from its memory map."""

from __future__ import annotations

from mixbit.export.mcu.boards import Board

__all__ = ["MODEL_FOLDER", "STACK_BYTES", "linker_script"]

MODEL_FOLDER = "model"
"""Objects in a folder of this name go to sections of their own, so that their sizes can be read from the image."""
STACK_BYTES = 64 << 10

_SCRIPT = """\
ENTRY(Reset_Handler)
MEMORY {{
  FLASH (rx) : ORIGIN = {flash.origin:#x}, LENGTH = {flash.size_bytes:#x}
  RAM (rwx) : ORIGIN = {ram.origin:#x}, LENGTH = {ram.size_bytes:#x}
}}
__stack_top = ORIGIN(RAM) + LENGTH(RAM);
__stack_limit = __stack_top - {stack:#x};
SECTIONS {{
  .vectors : {{ KEEP(*(.vectors)) }} > FLASH
  .model.text : {{ *{model}/*.o(.text .text.*) }} > FLASH
  .model.rodata : {{ *{model}/*.o(.rodata .rodata.*) }} > FLASH
  .text : {{ *(.text .text.*) KEEP(*(.init)) KEEP(*(.fini)) }} > FLASH
  .rodata : {{ *(.rodata .rodata.*) KEEP(*(.init_array*)) KEEP(*(.fini_array*)) }} > FLASH
  .ARM.exidx : {{ *(.ARM.exidx* .ARM.extab*) }} > FLASH
  .model.data : ALIGN(8) {{ __data_start = .; *{model}/*.o(.data .data.*) . = ALIGN(8); }} > RAM AT > FLASH
  .data : {{ *(.data .data.*) . = ALIGN(8); __data_end = .; }} > RAM AT > FLASH
  __data_source = LOADADDR(.model.data);
  .model.bss (NOLOAD) : ALIGN(8) {{ __bss_start = .; *{model}/*.o(.bss .bss.* COMMON) }} > RAM
  .bss (NOLOAD) : ALIGN(8) {{ *(.bss .bss.* COMMON) . = ALIGN(8); __bss_end = .; }} > RAM
  end = .;
  ASSERT(end <= __stack_limit, "RAM: variables reach into the stack")
}}
"""


def linker_script(board: Board) -> str:
    """Code and constants in flash, variables from the start of the RAM, the stack at its end."""
    return _SCRIPT.format(flash=board.flash, ram=board.ram, stack=STACK_BYTES, model=MODEL_FOLDER)
