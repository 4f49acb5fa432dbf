"""Methods under KRR on features of finite networks: FRePo, RFAD, KRR-ST, and the pool of the first and the last."""
