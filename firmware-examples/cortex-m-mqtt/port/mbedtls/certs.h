/* lwIP 2.2.1 includes it; mbedTLS 3 has it no more, and nothing of it is used. */
