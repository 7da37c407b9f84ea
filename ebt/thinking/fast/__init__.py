"""Fast versions of the plain code. Tests in double precision check that both agree."""
