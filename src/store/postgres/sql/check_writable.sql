SELECT {writable}
