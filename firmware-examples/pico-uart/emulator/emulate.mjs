/* node emulate.mjs PROGRAM.uf2 FLASH [CUT]: a Pico in rp2040js; its UART 0 is on stdin and stdout.
 *
 * FLASH is a file of 2 MiB that stands for the flash, made if there is none. CUT is the operation of
 * the flash, counted from power on, in whose middle the power is cut: the program ends with 77.
 *
 * The processor, the UART, the timer and the watchdog are rp2040js's. It has no boot ROM and no flash
 * commands, so those are here: functions of the ROM are traps (`BKPT; BX LR`), done in JavaScript. What
 * the ROM does before the program (USB, checking the second stage) is not done: the second stage,
 * which is the SDK's, begins. A reset by the watchdog is a new chip with the same flash. Bytes come
 * in at the baud rate that the program has set, and one that it does not fetch in time is lost, as in
 * the chip; bytes go out at once.
 */
import fs from 'node:fs';
import { ConsoleLogger, LogLevel, Simulator } from 'rp2040js';

const FLASH_BYTES = 2 * 1024 * 1024;
const FLASH_AT = 0x10000000;
const UART_FLAGS = 0x18;
const WATCHDOG = 0x40058; // address / 4096
const RAM_AT = 0x20000000;
const SECTOR_BYTES = 4096;
const PAGE_BYTES = 256;
const POWER_CUT = 77;
const BITS_OF_A_BYTE = 10;
const CYCLE_NANOS = 1e9 / 125_000_000;
const SLICE = 100_000;
const IDLE_INSTRUCTIONS = 40; // of a loop that looks at the UART, and has nothing else to do

const [program, flashPath, cutAt] = process.argv.slice(2);
const cut = cutAt === undefined ? -1 : Number(cutAt);
/* Operations of the flash since power on. */
let operations = 0;
let lost = 0;

const flashFile = fs.openSync(flashPath, fs.existsSync(flashPath) ? 'r+' : 'w+');
const flash = Buffer.alloc(FLASH_BYTES, 0xff);
fs.readSync(flashFile, flash, 0, FLASH_BYTES, 0);
loadUf2(fs.readFileSync(program));
fs.writeSync(flashFile, flash, 0, FLASH_BYTES, 0);

function loadUf2(file) {
  if (file.length === 0 || file.length % 512 !== 0) throw new Error('no UF2');
  for (let at = 0; at < file.length; at += 512) {
    const [first, second, , address, size, number, count, family] = Array.from({ length: 8 }, (_, i) =>
      file.readUInt32LE(at + 4 * i),
    );
    const right =
      first === 0x0a324655 && second === 0x9e5d5157 && file.readUInt32LE(at + 508) === 0x0ab16f30 &&
      size === 256 && number === at / 512 && count === file.length / 512 && family === 0xe48bff56 &&
      address >= FLASH_AT && address + size <= FLASH_AT + FLASH_BYTES;
    if (!right) throw new Error(`block ${at / 512} is no UF2 of an RP2040`);
    file.copy(flash, address - FLASH_AT, at + 32, at + 32 + size);
  }
}

// ------------------------------------------------------------ the boot ROM's functions

function countLeadingZeros(core) {
  core.registers[0] = Math.clz32(core.registers[0]);
}

function countTrailingZeros(core) {
  const value = core.registers[0];
  core.registers[0] = value === 0 ? 32 : 31 - Math.clz32(value & -value);
}

function populationCount(core) {
  let count = 0;
  for (let rest = core.registers[0]; rest !== 0; rest &= rest - 1) count++;
  core.registers[0] = count;
}

function reverseBits(core) {
  let value = core.registers[0], reversed = 0;
  for (let i = 0; i < 32; i++, value >>>= 1) reversed = (reversed << 1) | (value & 1);
  core.registers[0] = reversed >>> 0;
}

function set(core, mcu) {
  const [to, value, count] = core.registers;
  mcu.sram.fill(value & 0xff, to - RAM_AT, to - RAM_AT + count);
}

function copy(core, mcu) {
  const [to, from, count] = core.registers;
  for (let i = 0; i < count; i++) mcu.writeUint8(to + i, mcu.readUint8(from + i));
}

function isCut() {
  return operations++ === cut;
}

/* Write a range of the chip's flash to the file; end where the power is cut. */
function keep(mcu, at, length, isLast) {
  fs.writeSync(flashFile, mcu.flash, at, length, at);
  if (isLast) process.exit(POWER_CUT);
}

function erase(core, mcu) {
  const [at, count] = core.registers;
  if (at % SECTOR_BYTES || count % SECTOR_BYTES || at + count > FLASH_BYTES) throw new Error(`erase ${at} ${count}`);
  for (let sector = at; sector < at + count; sector += SECTOR_BYTES) {
    const half = isCut();
    mcu.flash.fill(0xff, sector, sector + (half ? SECTOR_BYTES / 2 : SECTOR_BYTES));
    keep(mcu, sector, SECTOR_BYTES, half);
  }
}

function programPages(core, mcu) {
  const [at, from, count] = core.registers;
  if (at % PAGE_BYTES || count % PAGE_BYTES || at + count > FLASH_BYTES) throw new Error(`program ${at} ${count}`);
  for (let page = 0; page < count; page += PAGE_BYTES) {
    const half = isCut();
    const end = page + (half ? PAGE_BYTES / 2 : PAGE_BYTES);
    for (let i = page; i < end; i++) mcu.flash[at + i] &= mcu.readUint8(from + i);
    keep(mcu, at + page, PAGE_BYTES, half);
  }
}

function nothing() {}

const FUNCTIONS = {
  L3: countLeadingZeros, T3: countTrailingZeros, P3: populationCount, R3: reverseBits,
  MS: set, S4: set, MC: copy, C4: copy,
  IF: nothing, EX: nothing, FC: nothing, CX: nothing,
  RE: erase, RP: programPages,
};
const NAMES = Object.keys(FUNCTIONS);

/* Trap 0 looks a function up; trap n is NAMES[n - 1]. */
function addressOf(trap) {
  return 0x100 + 4 * trap;
}

function trapped(mcu, trap) {
  const core = mcu.core;
  if (trap > 0) {
    FUNCTIONS[NAMES[trap - 1]](core, mcu);
    return;
  }
  const code = core.registers[1];
  const found = NAMES.indexOf(String.fromCharCode(code & 0xff, (code >> 8) & 0xff));
  core.registers[0] = found < 0 ? 0 : addressOf(found + 1) | 1;
}

function bootRom() {
  const rom = new Uint8Array(16 * 1024);
  const view = new DataView(rom.buffer);
  view.setUint32(0, RAM_AT + 0x40000, true);
  view.setUint32(4, FLASH_AT | 1, true);
  rom.set([0x4d, 0x75, 0x01, 0x03], 0x10); // "Mu", 1, version of the ROM
  view.setUint16(0x14, 0x80, true); // table of functions: is looked up by trap 0
  view.setUint16(0x16, 0x80, true);
  view.setUint16(0x18, addressOf(0) | 1, true);
  for (let trap = 0; trap <= NAMES.length; trap++) {
    view.setUint16(addressOf(trap), 0xbe00 | trap, true); // BKPT
    view.setUint16(addressOf(trap) + 2, 0x4770, true); // BX LR
  }
  return new Uint32Array(rom.buffer);
}

// ------------------------------------------------------------ the chip

const incoming = [];
let outgoing = [];

function powerOn(held) {
  const simulator = new Simulator();
  const mcu = simulator.rp2040;
  const chip = { mcu, clock: simulator.clock, byteNanos: 0, nextNanos: 0, resets: false, polls: 0 };
  const told = { operations };
  mcu.logger = new ConsoleLogger(LogLevel.Error);
  mcu.loadBootrom(bootRom());
  mcu.flash.set(held);
  mcu.onBreak = (trap) => trapped(mcu, trap);
  mcu.peripherals[WATCHDOG].onWatchdogTrigger = () => (chip.resets = true);
  mcu.uart[0].onByte = (byte) => outgoing.push(byte);
  mcu.uart[0].onBaudRateChange = (baud) => {
    if (chip.byteNanos === 0) tell('boot_s', chip, told); // what runs has been decided
    chip.byteNanos = (BITS_OF_A_BYTE * 1e9) / baud;
  };
  const read = mcu.uart[0].readUint32.bind(mcu.uart[0]);
  mcu.uart[0].readUint32 = (offset) => {
    if (offset === UART_FLAGS) chip.polls++;
    return read(offset);
  };
  mcu.core.PC = FLASH_AT;
  return chip;
}

/* For figures: seconds of the chip's clock since its reset. */
function tell(what, chip, since) {
  const line = { [what]: chip.clock.nanos / 1e9, operations: operations - (since?.operations ?? 0), lost };
  process.stderr.write(`${JSON.stringify(line)}\n`);
}

function feed(chip) {
  const uart = chip.mcu.uart[0];
  if (incoming.length === 0 || chip.clock.nanos < chip.nextNanos) return;
  const byte = incoming.shift();
  if (!uart.enabled || uart.rxFIFO.full) lost++;
  else uart.feedByte(byte);
  chip.nextNanos = chip.clock.nanos + chip.byteNanos;
}

let chip = powerOn(flash);
let sleeping = false;

/* Say whether the program did nothing in a slice but ask the UART for a byte: then its time stands still
 * until there is one. */
function isIdle(polls) {
  return incoming.length === 0 && polls > SLICE / IDLE_INSTRUCTIONS;
}

function run() {
  sleeping = false;
  const before = chip.polls;
  for (let i = 0; i < SLICE && !chip.resets; i++) {
    if (chip.mcu.core.waiting) chip.clock.tick(chip.clock.nanosToNextAlarm || 1000);
    else chip.clock.tick(chip.mcu.core.executeInstruction() * CYCLE_NANOS);
    if (incoming.length > 0) feed(chip);
  }
  if (outgoing.length > 0) {
    process.stdout.write(Buffer.from(outgoing));
    outgoing = [];
  }
  if (chip.resets) {
    tell('reset_s', chip);
    chip = powerOn(chip.mcu.flash.slice(0, FLASH_BYTES));
  } else if (isIdle(chip.polls - before)) {
    sleeping = true;
    return;
  }
  setImmediate(run);
}

process.stdin.on('data', (bytes) => {
  for (const byte of bytes) incoming.push(byte);
  if (sleeping) run();
});
process.stdin.on('end', () => {
  tell('off_s', chip);
  process.exit(0);
});
run();
