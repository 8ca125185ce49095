/* How an application asks: a Unix socket, one request after the other, all numbers little-endian.
 *
 * request   4 bytes   how many follow: those of all inputs, or none to ask what runs
 *           …         the inputs in the order of the contract, one behind the other, raw
 * answer    4 bytes   enum answer
 *           4 bytes   how many follow
 *           …         the outputs in the order of the contract, raw; or text
 *
 * The connection ends when another model takes over: connect again. A request that was whole is answered.
 */
#ifndef SERVE_H
#define SERVE_H

enum answer { ANSWER_OK, ANSWER_DESCRIPTION, ANSWER_REFUSED, ANSWER_FAILED };

#endif
